"""The worker on real servers: starts, stops and recoveries. What it does with changes: test_both_sources."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import structlog
from redis.asyncio import Redis

from servers import Database, eventually
from unstale.errors import MigrationMissing
from unstale.protocol.messages import Watermark
from unstale.protocol.names import Names
from unstale_worker.dev_servers import EmbeddedPostgres, EmbeddedValkey
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.status import Role
from unstale_worker.rules import Rules
from unstale_worker.sources.notify import NotifyWakeUps
from workers import (
    PROFILES,
    SCHEMA,
    Listener,
    applied,
    connected,
    logged,
    redis_at,
    running_worker,
    settings_for,
    state_of,
    worker_process,
    xid_now,
)


async def test_the_first_start_drops_what_the_rules_own(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await redis.mset({"user:1:profile": "old", "user:1:settings": "not owned"})
        async with running_worker(database.worker_dsn, redis_url):
            assert await redis.get("user:1:profile") is None
            assert await redis.get("user:1:settings") == b"not owned"
            state = await state_of(redis)
            assert len(state["epoch"]) == 32
            assert state["run"] == (await redis.info("replication"))["master_replid"]
        await redis.delete("user:1:settings")


def said_of_dropping(logs: Sequence[Mapping[str, object]]) -> list[tuple[object, object]]:
    """Level and reason of each line that says that keys are dropped; a first start gives no reason."""
    return [(line["log_level"], line.get("why")) for line in logs if "dropping" in str(line["event"])]


async def test_a_first_start_is_nothing_to_warn_of(database: Database, redis_url: str) -> None:
    """A position that is gone is: whether this process knew it, or only that another one led."""
    lost = ("warning", "no position")
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        with structlog.testing.capture_logs() as logs:
            async with running_worker(database.worker_dsn, redis_url) as worker:
                assert said_of_dropping(logs) == [("info", None)]
                await redis.flushall()
                await eventually(lambda: worker.status().counters.recoveries == 2)
                assert said_of_dropping(logs) == [("info", None), lost]
        await redis.hdel(Names().state, "position")
        with structlog.testing.capture_logs() as logs:
            async with running_worker(database.worker_dsn, redis_url):
                assert said_of_dropping(logs) == [lost]


async def test_a_standby_that_finds_no_position_warns(database: Database, redis_url: str) -> None:
    """Somebody led before it, so this is no first start."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await redis.set(Names().leader, "somebody", px=60_000)
        with structlog.testing.capture_logs() as logs:
            async with running_worker(database.worker_dsn, redis_url, leading=False) as standby:
                await eventually(lambda: any("standing by" in line["event"] for line in logs))
                await redis.flushall()
                await eventually(lambda: standby.status().ready and standby.status().role is Role.LEADING)
        assert said_of_dropping(logs) == [("warning", "no position")]


async def test_other_rules_drop_the_keys_of_patterns_that_came_or_went(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url):
            before = await state_of(redis)
        await redis.mset({"user:1:profile": "old rule's", "person:1": "new rule's", "x": "nobody's"})
        changed = PROFILES.replace('"user:{id}:profile", "user:{id}:greeting_instructions"', '"person:{id}"')
        async with running_worker(database.worker_dsn, redis_url, rules=changed, former_rules=0):
            assert await redis.mget("user:1:profile", "person:1", "x") == [None, None, b"nobody's"]
            after = await state_of(redis)
            assert after["rules"] != before["rules"]
            assert after["epoch"] == before["epoch"], "agents keep what did not change"
        await redis.delete("x")


async def test_the_same_rules_start_again_without_dropping_anything(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url):
            before = await state_of(redis)
        await redis.set("user:1:profile", "{}", ex=60)
        await db.execute("insert into profiles values (2, 'while nobody worked')")
        await redis.set("user:2:profile", "{}", ex=60)
        async with running_worker(database.worker_dsn, redis_url):
            await applied(redis, db)
            assert await redis.mget("user:1:profile", "user:2:profile") == [b"{}", None]
            assert (await state_of(redis))["epoch"] == before["epoch"]


async def test_an_emptied_redis_gets_a_new_epoch(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url) as worker:
            before = (await state_of(redis))["epoch"]
            await redis.flushall()
            await eventually(lambda: worker.status().counters.recoveries == 2)
            assert (await state_of(redis))["epoch"] != before
            await db.execute("insert into profiles values (1, 'x')")
            await eventually(lambda: "user:1:profile" in heard.keys)


async def test_without_a_captured_table_the_worker_says_what_to_run(
    database: Database, redis_url: str
) -> None:
    worker = Worker(settings_for(database.worker_dsn, redis_url), Rules.parse(PROFILES))
    with pytest.raises(MigrationMissing, match=r"public\.profiles is not watched.*unstale migration"):
        await worker.run(stop=asyncio.Event())


async def test_a_watch_with_a_narrower_filter_than_the_rules_is_refused(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        await db.execute("select unstale.watch('public.profiles', '{id}', '{name}')")
    worker = Worker(settings_for(database.worker_dsn, redis_url), Rules.parse(PROFILES))
    with pytest.raises(MigrationMissing, match="only captures changes of name"):
        await worker.run(stop=asyncio.Event())


async def test_watermarks_come_while_nothing_changes(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url):
            seen = len(heard.messages)
            await eventually(lambda: len(heard.messages) >= seen + 3)
            watermarks = [m for m in heard.messages if isinstance(m, Watermark)]
            assert watermarks[-1].age_ms < 5_000
            token = await db.fetchval("select unstale.token()")
            xid = int(token.split(":")[-2])

            def covers() -> bool:
                newest = heard.messages[-1]
                return isinstance(newest, Watermark) and newest.seen.includes(xid)

            await eventually(covers)


async def test_a_sleeping_worker_is_notified_and_an_absent_one_costs_no_notify(
    database: Database, redis_url: str
) -> None:
    heard: list[tuple[object, ...]] = []
    async with connected(database.dsn) as db, connected(database.dsn) as other:
        await db.execute(SCHEMA)
        await other.add_listener("unstale_wakeup", lambda *arguments: heard.append(arguments))
        await db.execute("insert into profiles values (1, 'nobody listens')")
        async with running_worker(database.worker_dsn, redis_url) as worker:
            await eventually(lambda: worker._wakeups is not None and worker._wakeups.asleep)
            assert heard == []
            await db.execute("insert into profiles values (2, 'wake up')")
            await eventually(lambda: len(heard) == 1)
            await eventually(lambda: worker._wakeups is not None and worker._wakeups.received >= 1)
        await db.execute("insert into profiles values (3, 'nobody listens')")
        await db.execute("select pg_notify('unstale_wakeup', 'end')")
        await eventually(lambda: heard[-1][-1] == "end")
        assert len(heard) == 2, "captures go on notifying a worker that was stopped"


async def test_changes_arrive_with_every_wake_up_lost(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url) as worker:
            wakeups = worker._wakeups
            assert isinstance(wakeups, NotifyWakeUps)
            await eventually(lambda: wakeups.asleep)
            listening = wakeups._connection
            assert listening is not None
            await listening.remove_listener("unstale_wakeup", wakeups._notified)
            expected = []
            for number in range(3):
                await db.execute("insert into profiles values ($1, 'x')", number)
                expected.append(f"user:{number}:profile")
                await eventually(lambda: set(expected) <= set(heard.keys))
            await eventually(
                lambda: wakeups._connection is not listening, message="a deaf session is replaced"
            )


async def test_a_killed_worker_loses_nothing(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        written = 0
        for _ in range(3):
            with worker_process(database.worker_dsn, redis_url, UNSTALE_LEADER_TTL="0.5") as process:
                fence = (await state_of(redis)).get("fence", "0")
                await eventually(partial(_fence_moved, redis, fence), message="a worker leads")
                for _ in range(200):
                    written += 1
                    await db.execute("insert into profiles values ($1, 'x')", written)
                process.kill()
        async with running_worker(database.worker_dsn, redis_url):
            await applied(redis, db)
            await eventually(lambda: {f"user:{n}:profile" for n in range(1, written + 1)} <= set(heard.keys))


async def _fence_moved(redis: Redis, fence: str) -> bool:
    """Whether another worker leads and has a position: no message says what was there before that."""
    state = await state_of(redis)
    return state.get("fence", "0") != fence and "position" in state


async def test_sigterm_ends_a_worker_with_exit_code_0_and_hands_over(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        with worker_process(database.worker_dsn, redis_url) as process:
            await eventually(lambda: redis.hget(Names().state, "position"))
            async with running_worker(database.worker_dsn, redis_url, leading=False) as standby:
                assert standby.status().role is Role.STANDBY
                assert standby.status().ready
                process.send_signal(signal.SIGTERM)
                await eventually(lambda: process.poll() is not None)
                assert process.returncode == 0
                await eventually(lambda: standby.status().role is Role.LEADING)
                await db.execute("insert into profiles values (1, 'x')")
                await applied(redis, db)


async def test_a_standby_says_that_it_stands_by(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
    async with running_worker(database.worker_dsn, redis_url):
        with structlog.testing.capture_logs() as logs:
            async with running_worker(database.worker_dsn, redis_url, leading=False) as standby:
                await eventually(lambda: standby.status().role is Role.STANDBY)
                await eventually(lambda: any("standing by" in line["event"] for line in logs))


async def test_a_server_that_stays_away_is_said_once(redis_url: str) -> None:
    settings = settings_for("postgresql://nobody@127.0.0.1:1/none", redis_url)
    stop = asyncio.Event()
    with structlog.testing.capture_logs() as logs:
        worker = Worker(settings, Rules.parse(PROFILES))
        running = asyncio.create_task(worker.run(stop=stop))
        await eventually(lambda: worker.status().counters.errors >= 4)
        stop.set()
        await running

    said = [line for line in logs if line["event"] == "trying again"]
    assert [line["error"] for line in said] == [
        "cannot connect to Postgres (ConnectionRefusedError); check DATABASE_URL and the server"
    ]


async def test_a_paused_leader_that_wakes_up_changes_nothing(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        with worker_process(database.worker_dsn, redis_url, UNSTALE_LEADER_TTL="0.5") as process:
            await eventually(lambda: redis.hget(Names().state, "position"))
            process.send_signal(signal.SIGSTOP)
            async with running_worker(database.worker_dsn, redis_url):
                fence = (await state_of(redis))["fence"]
                process.send_signal(signal.SIGCONT)
                for number in range(50):
                    await db.execute("insert into profiles values ($1, 'x')", number)
                await applied(redis, db)
                assert (await state_of(redis))["fence"] == fence
                await heard.caught_up(redis)
                ids = [message.id for message in heard.messages if hasattr(message, "id")]
                assert ids == sorted(set(ids)), "two leaders wrote the log"


async def test_postgres_killed_and_started_again(own_postgres: EmbeddedPostgres, redis_url: str) -> None:
    dsn = own_postgres.dsn()
    async with redis_at(redis_url) as redis, Listener(redis_url) as heard:
        async with connected(dsn) as db:
            await db.execute(SCHEMA)
        async with running_worker(own_postgres.dsn(user="unstale_worker"), redis_url) as worker:
            await own_postgres.kill()
            await eventually(lambda: not worker.status().database)
            await own_postgres.restart()
            async with connected(dsn) as db:
                await db.execute("insert into profiles values (1, 'x')")
                await eventually(lambda: "user:1:profile" in heard.keys)
                await applied(redis, db)
            await eventually(lambda: worker.status().database and worker.status().ready)


async def test_valkey_killed_and_started_again(database: Database, valkey: EmbeddedValkey) -> None:
    async with connected(database.dsn) as db, redis_at(valkey.url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, valkey.url) as worker:
            await valkey.kill()
            await db.execute("insert into profiles values (1, 'while Redis was away')")
            await eventually(lambda: not worker.status().redis)
            await valkey.restart()
            await eventually(lambda: worker.status().counters.recoveries == 2)
            await eventually(lambda: worker.status().ready and worker.status().redis)
            await db.execute("insert into profiles values (2, 'x')")
            await applied(redis, db)
        assert await xid_now(db) > 0


async def test_a_new_leader_ends_the_sessions_of_its_own_predecessors_only(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url):
            consumer = (await state_of(redis))["consumer"]
        async with connected(database.worker_dsn) as older, connected(database.worker_dsn) as other:
            name = "select set_config('application_name', $1, false)"
            await older.execute(name, f"unstale-worker:{consumer}:0")
            await other.execute(name, "unstale-worker:00000000:0")
            async with running_worker(database.worker_dsn, redis_url):
                await eventually(older.is_closed, message="the older leader's session is ended")
                assert await other.fetchval("select 1") == 1


@pytest.mark.parametrize(
    ("field", "garbage"),
    [
        ("last", "many"),
        ("last", str(2**53)),
        ("epoch", '"}'),
        ("fence", "x"),
        ("position", "y"),
        ("run", "z"),
    ],
)
async def test_garbage_in_the_state_heals(
    database: Database, redis_url: str, field: str, garbage: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url):
            await redis.hset(Names().state, field, garbage)
            await db.execute("insert into profiles values (0, 'x')")
            await eventually(lambda: _healed(redis, field, garbage))
            await applied(redis, db)
            await db.execute("insert into profiles values (1, 'x')")
            await eventually(lambda: "user:1:profile" in heard.keys)


async def _healed(redis: Redis, field: str, garbage: str) -> bool:
    state = await state_of(redis)
    counts = state.get("last", "").isdecimal() and int(state["last"]) < 2**53
    return counts and "position" in state and state.get(field) != garbage


async def test_a_log_ahead_of_its_state_is_begun_anew(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url):
            await redis.xadd(Names().log, {"m": '"keys":[],"patterns":[]'}, id="999999-0")
            await db.execute("insert into profiles values (1, 'x')")
            await eventually(lambda: "user:1:profile" in heard.keys)
            assert [entry for entry, _ in await logged(redis)] == [b"1-0"]

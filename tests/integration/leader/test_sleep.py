"""Sleep of the worker: only its own role can begin or end it, and no commit goes unheard meanwhile."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from servers import Database, eventually
from servers.outbox import changes, position
from unstale_worker.dev_servers import EmbeddedPostgres
from unstale_worker.leader.supervisor import Worker
from unstale_worker.sources import notify
from unstale_worker.sources.notify import NotifyWakeUps
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.sources.postgres_connections import PostgresConnections
from unstale_worker.sql import statement
from workers import SCHEMA, connected, running_worker, worker_process

Heard = list[tuple[object, ...]]


@asynccontextmanager
async def role_of_api(database: Database, role: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of ``role``, in autocommit."""
    async with connected(database.dsn) as connection:
        await connection.execute(f"grant {role} to postgres; set role {role}")
        yield connection


async def seconds_wanted(database: Database) -> float:
    """For how much longer captures send NOTIFY; 0 or less: they do not."""
    async with connected(database.dsn) as owner:
        left: float = await owner.fetchval(
            "select coalesce(pg_sequence_last_value('unstale.notify_wanted'::regclass), 0)::float8 "
            "- extract(epoch from clock_timestamp())::float8"
        )
        return left


def asleep(worker: Worker) -> bool:
    return worker._wakeups is not None and worker._wakeups.asleep


async def test_no_role_but_the_workers_can_tell_captures_to_notify_or_not(database: Database) -> None:
    for role in ("anon", "authenticated", "service_role"):
        async with role_of_api(database, role) as other:
            for refused in (
                "select unstale.want_notify()",
                "select unstale.end_notify()",
                "select unstale.wake()",
                "select unstale.tell()",
                "select setval('unstale.notify_wanted', 1)",
                "select nextval('unstale.notify_wanted')",
                "select last_value from unstale.notify_wanted",
                "begin; lock table unstale.outbox in row exclusive mode",
                "rollback; begin; lock table public.unstale_wakeup in share update exclusive mode",
                "rollback; begin; lock table public.unstale_wakeup in share row exclusive mode",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await other.execute(refused)


async def test_a_strangers_locks_neither_keep_it_awake_nor_make_commits_pay(
    database: Database, redis_url: str
) -> None:
    heard: Heard = []
    async with AsyncExitStack() as exits:
        db = await exits.enter_async_context(connected(database.dsn))
        listener = await exits.enter_async_context(connected(database.dsn))
        await db.execute(SCHEMA)
        await db.execute("set lock_timeout = '1s'")
        for shared in ("", "_shared"):
            # Every advisory lock of unstale's numbers, and a transaction that stays open.
            role = await exits.enter_async_context(role_of_api(database, "authenticated"))
            for number in range(10):
                low = number if shared == "" else number + 10
                await role.execute(f"select pg_advisory_lock{shared}(1970496884, {low})")
            await role.execute("begin; select pg_current_xact_id()")
        await listener.add_listener("unstale_wakeup", lambda *arguments: heard.append(arguments))
        await db.execute("insert into profiles values (1, 'nobody sleeps')")
        await listener.execute("select pg_notify('unstale_wakeup', 'end')")
        await eventually(lambda: heard)
        assert [arguments[-1] for arguments in heard] == ["end"]
        # A worker over HTTPS is told all the same.
        await db.execute("select setval('unstale.wakeups_wanted', extract(epoch from now())::bigint + 60)")
        await db.execute("insert into profiles values (2, 'told')")
        assert await db.fetchval("select count(*) from public.unstale_wakeup") == 1
        async with running_worker(database.worker_dsn, redis_url) as worker:
            await eventually(lambda: asleep(worker))
            await db.execute("insert into profiles values (3, 'wake up')")
            await eventually(lambda: worker._wakeups is not None and worker._wakeups.received >= 1)


async def test_a_strangers_messages_make_it_read_no_faster_than_its_timer(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any role may send NOTIFY on any channel."""
    read, reads = OutboxSource.read, 0

    async def counted(self: OutboxSource, *arguments: object) -> object:
        nonlocal reads
        reads += 1
        return await read(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(OutboxSource, "read", counted)
    async with connected(database.dsn) as db, role_of_api(database, "anon") as other:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, poll_max=1.0) as worker:
            wakeups = worker._wakeups
            assert wakeups is not None
            await eventually(lambda: asleep(worker))
            before, began = reads, time.monotonic()
            for _ in range(400):
                await other.execute("notify unstale_wakeup")
            await eventually(lambda: wakeups.received >= 400)
            # Once for each watermark (0.5 s), as often for hints, and some while its pauses are short.
            assert reads - before <= 20 + 4 * (time.monotonic() - began)
            entries = worker.status().counters.entries
            await db.execute("insert into profiles values (1, 'x')")
            await eventually(lambda: worker.status().counters.entries > entries)


@pytest.mark.parametrize("defended", [True, False])
async def test_no_commit_goes_unheard_at_the_moment_of_falling_asleep(
    database: Database, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Whatever commits after the last read has sent a NOTIFY, with 8 writers in any phase."""
    if not defended:

        def unlisted(name: str) -> str:
            return statement(name).replace("unstale.want_notify()", "(unstale.want_notify())[:0]")

        monkeypatch.setattr(notify, "statement", unlisted)
    chance = random.Random(os.environ.get("UNSTALE_TEST_SEED", "asleep"))
    heard: dict[int, int] = {}  # by process id of the sender
    async with AsyncExitStack() as exits:
        db = await exits.enter_async_context(connected(database.dsn))
        writers = [await exits.enter_async_context(connected(database.dsn)) for _ in range(8)]
        await db.execute(SCHEMA)
        sleeper = await exits.enter_async_context(NotifyWakeUps(PostgresConnections(database.worker_dsn)))
        ended = asyncio.Event()

        async def write(number: int, key: int) -> None:
            connection = writers[number]
            await asyncio.sleep(chance.uniform(0, 0.004))
            change = connection.transaction()
            await change.start()
            await connection.execute("insert into profiles values ($1, 'x')", key)
            await asyncio.sleep(chance.uniform(0, 0.006))
            await (change.rollback() if chance.random() < 0.1 else change.commit())

        async def unheard_in_round(number: int) -> list[int]:
            heard.clear()
            ended.clear()
            writing = [asyncio.create_task(write(n, number * 8 + n)) for n in range(8)]
            await asyncio.sleep(chance.uniform(0, 0.008))
            await eventually(sleeper.try_sleep)
            if number == 0:
                assert sleeper._connection is not None
                await sleeper._connection.add_listener(
                    "unstale_wakeup", lambda _, sender, *__: heard.update({sender: number})
                )
                await sleeper._connection.add_listener("writers_ended", lambda *_: ended.set())
            last_read = await position(db)
            await asyncio.gather(*writing)
            await db.execute("notify writers_ended")  # after every NOTIFY of the writers
            await ended.wait()
            later = [entry.keys for entry in await changes(db, last_read)]
            await sleeper.end_sleep()
            keys = [int(key[0] or 0) for key in later if key is not None]
            return [key for key in keys if writers[key % 8].get_server_pid() not in heard]

        # Its listeners are added in the first round, which therefore counts for nothing.
        await unheard_in_round(0)
        unheard: list[int] = []
        for number in range(1, 61 if defended else 301):
            unheard += await unheard_in_round(number)
            if unheard and not defended:
                break
        assert bool(unheard) is not defended


async def test_a_worker_that_dies_asleep_is_forgotten_and_the_next_one_sleeps(
    database: Database, redis_url: str
) -> None:
    heard: Heard = []
    async with connected(database.dsn) as db, connected(database.dsn) as listener:
        await db.execute(SCHEMA)
        await listener.add_listener("unstale_wakeup", lambda *arguments: heard.append(arguments))
        with worker_process(database.worker_dsn, redis_url, UNSTALE_LEADER_TTL="0.5") as process:

            async def wanted() -> bool:
                return await seconds_wanted(database) > 0

            await eventually(wanted)
            process.kill()
            process.wait()
        # Commits pay for it a little longer, and that ends without anybody.
        assert await seconds_wanted(database) <= 31
        await db.execute("insert into profiles values (1, 'notifies')")
        await eventually(lambda: heard)
        async with running_worker(database.worker_dsn, redis_url) as worker:
            await eventually(lambda: asleep(worker))
            received = len(heard)
            await db.execute("insert into profiles values (2, 'wake up')")
            await eventually(lambda: worker._wakeups is not None and worker._wakeups.received >= 1)
            await eventually(lambda: len(heard) > received)  # on another session, perhaps later
        heard.clear()
        await db.execute("select setval('unstale.notify_wanted', extract(epoch from now())::bigint - 1)")
        await db.execute("insert into profiles values (3, 'it has lapsed')")
        await db.execute("select pg_notify('unstale_wakeup', 'end')")
        await eventually(lambda: heard)
        assert [arguments[-1] for arguments in heard] == ["end"]


async def test_it_wakes_up_once_commits_queue_for_their_notify(
    own_postgres: EmbeddedPostgres, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one commit at a time may wait for the disk while all of them notify."""
    database = Database("postgres", own_postgres)
    async with AsyncExitStack() as exits:
        admin = await exits.enter_async_context(connected(database.superuser_dsn))
        writers = [await exits.enter_async_context(connected(database.dsn)) for _ in range(3)]
        await writers[0].execute(SCHEMA)
        sleeper = await exits.enter_async_context(NotifyWakeUps(PostgresConnections(database.worker_dsn)))
        await eventually(sleeper.try_sleep)
        keys = iter(range(1_000))

        async def notified() -> None:
            """Three NOTIFYs, one after the other, and the time until the next look."""
            until = sleeper.received + 3
            for _ in range(3):
                await writers[0].execute("insert into profiles values ($1)", next(keys))
            await eventually(lambda: sleeper.received >= until)
            await eventually(lambda: time.monotonic() > sleeper._queue_looked_at + notify.QUEUE_SECONDS)

        await notified()
        assert not await sleeper.delays_commits()
        await notified()
        # A commit that waits for a standby that never comes, as for a disk that takes its time.
        await admin.execute("alter system set synchronous_commit = local")
        await admin.execute("alter system set synchronous_standby_names = 'nobody'")
        await admin.execute("select pg_reload_conf()")
        shown = "select current_setting('synchronous_standby_names') <> ''"
        for writer in writers:
            await eventually(partial(writer.fetchval, shown))
            await writer.execute("set synchronous_commit = on")
        commits = [
            asyncio.create_task(writer.execute("insert into profiles values ($1)", next(keys)))
            for writer in writers
        ]
        await eventually(lambda: admin.fetchval("select count(*) = 2 from pg_locks where not granted"))
        assert await sleeper.delays_commits()
        await admin.execute("alter system reset synchronous_standby_names")
        await admin.execute("select pg_reload_conf()")
        await asyncio.gather(*commits)
        await sleeper.close()

        queues = False

        async def delays_commits(self: NotifyWakeUps) -> bool:
            return queues and self.asleep

        monkeypatch.setattr(NotifyWakeUps, "delays_commits", delays_commits)
        async with running_worker(database.worker_dsn, redis_url) as worker:
            await eventually(lambda: asleep(worker))
            queues = True
            await eventually(lambda: not asleep(worker))
            assert await seconds_wanted(database) <= 0


async def test_an_idle_worker_costs_next_to_nothing(database: Database, redis_url: str) -> None:
    """At most 5 queries a second and 1 % of a core."""

    def cpu_seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async with connected(database.dsn) as db, connected(database.superuser_dsn) as admin:
        await db.execute(SCHEMA)

        async def queries() -> int:
            # Each statement of the worker is a transaction; a session reports them within a second of idling.
            await admin.execute("select pg_stat_clear_snapshot()")
            counted: int = await admin.fetchval(
                "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
            )
            return counted

        with worker_process(database.worker_dsn, redis_url) as process:

            async def wanted() -> bool:
                return await seconds_wanted(database) > 0

            await eventually(wanted)
            await asyncio.sleep(1)  # what it does once, at its start
            before, cpu, began = await queries(), cpu_seconds(process.pid), time.monotonic()
            await asyncio.sleep(3)
            asked, used = await queries() - before, cpu_seconds(process.pid) - cpu
            elapsed = time.monotonic() - began
        assert asked <= 5 * elapsed
        assert used <= 0.01 * elapsed + 0.02  # two ticks of the kernel's clock

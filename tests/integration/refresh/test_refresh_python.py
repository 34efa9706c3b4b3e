"""Python loaders inside the only worker: outcomes, failures, limits, pauses."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

import refresh_loaders
from servers import Database, eventually
from unstale.runtime.cancellation import cancelled
from unstale_worker.observe.refresh_counters import RefreshCounters
from unstale_worker.refresh.outcomes import Outcomes
from unstale_worker.refresh.python.loader_calls import LoaderCalls, mistakes
from unstale_worker.refresh.python.python_refresher import PythonRefresher
from unstale_worker.refresh.redis.dead_letters import drop_dead, list_dead, retry_dead
from unstale_worker.refresh.redis.leases import Acquired, Value, new_lease
from unstale_worker.refresh.redis.reservations import RANGE, Reservation
from unstale_worker.refresh.redis.store import RefreshStore, open_store
from unstale_worker.refresh.refresh_worker import RefreshWorker
from unstale_worker.refresh.sql.pending_keys import PendingKeys
from unstale_worker.refresh.sql.sql_refresher import SqlRefresher
from unstale_worker.refresh.sql.sql_worker import run_batches
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import RefreshSpec
from workers import applied, connected, redis_at, running_worker, settings_for
from workers.refresh_stage import NAMES, counts, due, filled, rules_in_force, settled

SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles select n, 'User ' || n from generate_series(1, 100) n;
select unstale.watch('public.profiles', '{id}');
"""


def rules(more: str = "", loader: str = "refresh_loaders:greeting") -> str:
    return f"""
[[watch]]
table = "public.profiles"
keys = ["user:{{id}}:greeting"]

[refresh."user:{{user_id}}:greeting"]
loader = "{loader}"
{more}
"""


@pytest.fixture(autouse=True)
def _fresh_loaders() -> None:
    refresh_loaders.reset()


async def test_the_only_worker_calls_the_loader_itself(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=rules('ttl = "10m"')):
            await due(redis, "user:7:greeting", "user:101:greeting")
            assert json.loads(await filled(redis, "user:7:greeting")) == {
                "greeting": "Hello User 7",
                "call": 1,
            }
            assert json.loads(await filled(redis, "user:101:greeting"))["greeting"] == "Hello None"
            await settled(redis)
            assert 500_000 < await redis.pttl("user:7:greeting") <= 600_000
            assert await counts(redis) == {"filled": 2}


async def test_a_failing_loader_ends_as_a_dead_letter_and_leaves_nothing_stale(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        options: dict[str, Any] = {"refresh_attempts": 3, "refresh_backoff": 0.05}
        async with running_worker(database.dsn, redis_url, rules=rules(), **options) as worker:
            key = "user:1:greeting"
            refresh_loaders.mood[key] = "fail"
            await redis.set(NAMES.stale(key), b'"old"', px=600_000)
            await due(redis, key)
            letters = await eventually(lambda: list_dead(redis, NAMES))
            assert [(letter.key, letter.attempts, letter.error) for letter in letters] == [
                (key, 3, "ValueError: no idea what to say")
            ]
            assert letters[0].pattern == "user:{user_id}:greeting"
            assert abs(letters[0].at - time.time()) < 60
            assert not await redis.exists(key, NAMES.stale(key), NAMES.refresh)
            assert refresh_loaders.calls[key] == 3
            await eventually(lambda: worker.status().refreshed.dead == 1)

            assert not await drop_dead(redis, NAMES, "user:2:greeting")
            del refresh_loaders.mood[key]
            assert await retry_dead(redis, NAMES, key)
            assert json.loads(await filled(redis, key))["greeting"] == "Hello User 1"
            assert await list_dead(redis, NAMES) == []
            assert not await retry_dead(redis, NAMES, key)


async def test_a_dead_letter_that_changes_again_is_attempted_again(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=rules(), refresh_attempts=1):
            key = "user:1:greeting"
            refresh_loaders.mood[key] = "fail"
            await due(redis, key)
            await eventually(lambda: list_dead(redis, NAMES))
            del refresh_loaders.mood[key]
            await due(redis, key)
            await filled(redis, key)
            assert await list_dead(redis, NAMES) == []


async def test_a_loader_that_hangs_is_ended_by_its_timeout(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        given = rules('timeout = "200ms"')
        async with running_worker(database.dsn, redis_url, rules=given, refresh_attempts=1):
            refresh_loaders.mood["user:1:greeting"] = "hang"
            await due(redis, "user:1:greeting")
            (letter,) = await eventually(lambda: list_dead(redis, NAMES))
            assert letter.error == "the loader took longer than 0.2 s"
            assert refresh_loaders.running == 0


async def test_a_refusal_for_the_rate_pauses_the_loader_and_is_no_failure(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=rules(), refresh_attempts=1):
            refresh_loaders.mood["user:1:greeting"] = "refuse"
            await due(redis, "user:1:greeting")
            pause = NAMES.refresh_pause("refresh_loaders:greeting")
            await eventually(lambda: redis.exists(pause))
            await due(redis, "user:2:greeting")
            while await redis.exists(pause):
                assert not refresh_loaders.calls["user:2:greeting"], "the loader is left alone"
                await asyncio.sleep(0.02)
            await filled(redis, "user:1:greeting")
            await filled(redis, "user:2:greeting")
            assert await counts(redis) == {"filled": 2}


async def test_what_changes_while_it_is_loaded_is_loaded_again(database: Database, redis_url: str) -> None:
    """The lease went with the change, so the old answer is not stored; the last state is."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=rules()):
            key = "user:1:greeting"
            refresh_loaders.mood[key] = "wait"
            await due(redis, key)
            await eventually(lambda: refresh_loaders.running)
            await db.execute("update public.profiles set name = 'Ada' where id = 1")
            await applied(redis, db)
            del refresh_loaders.mood[key]
            refresh_loaders.opened.set()
            assert json.loads(await filled(redis, key)) == {"greeting": "Hello Ada", "call": 2}
            assert (await counts(redis))["overtaken"] == 1


async def test_a_loaders_concurrency_is_kept(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=rules("concurrency = 3")):
            await due(redis, *(f"user:{n}:greeting" for n in range(1, 41)))
            await settled(redis, timeout=60)
            assert refresh_loaders.most_running == 3
            assert await counts(redis) == {"filled": 40}
            assert set(refresh_loaders.calls.values()) == {1}


async def test_a_loaders_rate_is_kept(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=rules('rate = "5/s"')):
            await due(redis, "user:50:greeting")
            await filled(redis, "user:50:greeting")
            began = time.monotonic()
            await due(redis, *(f"user:{n}:greeting" for n in range(1, 13)))
            await settled(redis, timeout=60)
            assert time.monotonic() - began > 1.0, "13 calls need three seconds that each see five"
            assert sum(refresh_loaders.calls.values()) == 13


async def test_a_worker_that_stops_leaves_its_keys_to_the_next(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        key = "user:1:greeting"
        async with running_worker(database.dsn, redis_url, rules=rules()):
            refresh_loaders.mood[key] = "hang"
            await due(redis, key)
            await eventually(lambda: refresh_loaders.running)
        assert refresh_loaders.running == 0
        assert not await redis.exists(key), "its lease was given up"
        assert await redis.zscore(NAMES.refresh, key) is not None
        refresh_loaders.mood.clear()
        async with running_worker(database.dsn, redis_url, rules=rules()):
            await filled(redis, key)


@asynccontextmanager
async def a_process(
    database: Database, redis_url: str
) -> AsyncIterator[tuple[PythonRefresher, RefreshStore, RefreshSpec, Outcomes]]:
    """One beside a leader with the same rules, which calls no loader: the loader it names is not there."""
    settings = settings_for(database.dsn, redis_url)
    given = Rules.parse(rules())
    (spec,) = given.refreshes
    async with (
        redis_at(redis_url) as redis,
        open_store(settings, given) as store,
        LoaderCalls(settings, given) as calls,
    ):
        await redis.hset(NAMES.state, mapping={"rules": given.hash, "epoch": "e"})
        outcomes = Outcomes.of(settings, given, store.leases, RefreshCounters())
        yield PythonRefresher(outcomes, store.reservations, store.budgets, calls), store, spec, outcomes


async def test_a_refresh_that_comes_back_fills_nothing_twice(database: Database, redis_url: str) -> None:
    """A worker died between its fill and what follows: another one has the same reservation."""
    key = "user:1:greeting"
    async with (
        connected(database.dsn) as db,
        redis_at(redis_url) as redis,
        a_process(database, redis_url) as (refresher, _, spec, outcomes),
    ):
        await db.execute(SCHEMA)
        await due(redis, key)
        assert await refresher.refresh(Reservation(spec, key, new_lease()))
        value = await redis.get(key)
        assert not await refresher.refresh(Reservation(spec, key, new_lease()))
        assert (await redis.get(key), refresh_loaders.calls[key], outcomes.tally.filled) == (value, 1, 1)
        await redis.unlink(key)  # it expired meanwhile: its refresh is not wanted
        assert not await refresher.refresh(Reservation(spec, key, new_lease()))
        assert not await redis.exists(key)
        assert refresh_loaders.calls[key] == 1


async def test_a_key_that_is_due_again_while_its_loader_runs_is_loaded_once(
    database: Database, redis_url: str
) -> None:
    key = "user:1:greeting"
    async with (
        connected(database.dsn) as db,
        redis_at(redis_url) as redis,
        a_process(database, redis_url) as (refresher, _, spec, _),
    ):
        await db.execute(SCHEMA)
        await due(redis, key)
        called = await asyncio.gather(
            *(refresher.refresh(Reservation(spec, key, new_lease())) for _ in range(5))
        )
        assert sorted(called) == [False, False, False, False, True]
        assert refresh_loaders.calls[key] == 1
        await filled(redis, key)


async def test_a_process_with_other_rules_calls_no_loader_and_stores_nothing(
    database: Database, redis_url: str
) -> None:
    """Its loader may be the one of before: what it returns would stay until the next change."""
    key = "user:1:greeting"
    async with (
        connected(database.dsn) as db,
        redis_at(redis_url) as redis,
        a_process(database, redis_url) as (refresher, store, spec, _),
    ):
        await db.execute(SCHEMA)
        current = await redis.hget(NAMES.state, "rules")
        await redis.hset(NAMES.state, "rules", "other")
        await redis.zadd(NAMES.refresh, {key: (time.time() + 3_600) * 1_000})
        assert not await store.leases.in_force()
        assert not await refresher.refresh(Reservation(spec, key, new_lease()))
        assert refresh_loaders.calls[key] == 0
        assert not await redis.exists(key)
        score = await redis.zscore(NAMES.refresh, key)
        assert score is not None
        assert score < (time.time() + 60) * 1_000, "due again soon"

        await redis.hset(NAMES.state, "rules", current or b"")
        assert await store.leases.in_force()
        await redis.zadd(NAMES.refresh, {key: (time.time() + 3_600) * 1_000})
        assert await store.leases.acquire([key], lease := new_lease()) == [Acquired.YES]
        await redis.hset(NAMES.state, "rules", "other")  # between the lease and the fill
        assert await store.leases.fill([Value(key, b'"old"', 60.0)], lease, again=3_600.0) == 0
        assert not await redis.exists(key), "the lease is given up, too"


async def test_a_key_made_ready_for_another_loader_is_given_back(database: Database, redis_url: str) -> None:
    """A leader with other rules, which numbers the loaders in another way, did that a moment ago."""
    key = "user:15:greeting"
    more = '[refresh."user:{user_id}:greeting"]\nloader = "refresh_loaders:summary"'
    text = rules(more).replace("user:{user_id}", "user:1{rest}", 1)
    given = Rules.parse(text)
    settings = settings_for(database.dsn, redis_url)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with (
            running_worker(database.dsn, redis_url, rules=text),
            open_store(settings, given) as store,
        ):
            await rules_in_force(redis)
            await redis.zadd(NAMES.refresh, {key: (time.time() + 3_600) * 1_000})
            await store.reservations.make_ready(given.refreshes[1], [key], now=1)
            assert json.loads(await filled(redis, key)) == {"greeting": "Hello User 15", "call": 1}
            assert await counts(redis) == {"filled": 1}, "and no attempt failed"


async def test_a_load_longer_than_the_takeover_keeps_its_slot_and_its_key(
    database: Database, redis_url: str
) -> None:
    slow, next_one = "user:1:greeting", "user:2:greeting"
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        given = rules("concurrency = 1")
        async with running_worker(database.dsn, redis_url, rules=given, refresh_takeover=1.0):
            refresh_loaders.mood[slow] = "wait"
            await due(redis, slow)
            await eventually(lambda: refresh_loaders.running)
            reserved = await redis.zscore(NAMES.refresh, slow)
            await due(redis, next_one)
            assert reserved is not None
            end = reserved + 500

            async def passed() -> bool:
                seconds, _ = await redis.time()
                return bool(1000 * seconds > end)

            await eventually(passed)
            held = await redis.zscore(NAMES.refresh, slow)
            assert held is not None
            assert reserved < held < RANGE, "not due, and not ready again"
            refresh_loaders.opened.set()
            await filled(redis, slow)
            await filled(redis, next_one)
            assert refresh_loaders.most_running == 1
            assert refresh_loaders.calls == {slow: 1, next_one: 1}


async def test_a_refresh_worker_says_that_its_rules_are_others(database: Database, redis_url: str) -> None:
    settings = settings_for(database.dsn, redis_url)
    worker, stop = RefreshWorker(settings, Rules.parse(rules())), asyncio.Event()
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url):
            task = asyncio.create_task(worker.run(stop=stop))
            await eventually(lambda: "same unstale.toml" in worker.status().problem, timeout=30)
        await redis.hset(NAMES.state, "rules", Rules.parse(rules()).hash)
        await eventually(lambda: worker.status().problem == "", timeout=30)
        stop.set()
        await task


async def test_keys_of_a_batch_that_is_cancelled_are_not_forgotten() -> None:
    """One batch whose server does not answer ends the others; theirs are due again, not in a minute."""
    (spec,) = Rules.parse(rules()).refreshes
    lost: list[str] = []
    begun = asyncio.Event()

    class Hanging(SqlRefresher):
        def __init__(self) -> None: ...

        async def refresh(self, spec: RefreshSpec, keys: Sequence[str]) -> None:
            begun.set()
            await asyncio.Event().wait()

    pending = PendingKeys()
    pending.put(["user:1:greeting", "user:2:greeting"])
    task = asyncio.create_task(run_batches(spec, pending, Hanging(), None, lost.extend))
    await begun.wait()
    await cancelled(task)
    assert lost == ["user:1:greeting", "user:2:greeting"]


@pytest.mark.parametrize(
    ("loader", "problem"),
    [
        ("no_such_module:greeting", "cannot be imported"),
        ("refresh_loaders:nothing", "there is no nothing"),
        ("refresh_loaders:not_async", "not an async function"),
        ("refresh_loaders:no_argument", "cannot be called with one argument"),
    ],
)
async def test_a_loader_that_is_none_is_named_with_its_line(loader: str, problem: str) -> None:
    (mistake,) = await mistakes(settings_for(None, "redis://nowhere"), Rules.parse(rules(loader=loader)))
    assert mistake.error.line == 6
    assert mistake.error.field == 'refresh."user:{user_id}:greeting".loader'
    assert problem in str(mistake.error)
    assert loader in str(mistake.error)
    assert mistake.missing

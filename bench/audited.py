"""The audit of `sight.py`: a correct system under load and faults, planted values, and naive caches."""

import asyncio
import contextlib
import itertools
import json
import random
import signal
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from harness import applied, leads, worker
from redis.asyncio import Redis

from unstale import Cache
from unstale.errors import UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.audit.auditor import Auditor, Options
from unstale_worker.audit.judging import Outcome
from unstale_worker.audit.opening import opened
from unstale_worker.audit.shadow import shadowing
from unstale_worker.dev_servers import Stack
from unstale_worker.rules import Rules

USERS, PLANTED, SECONDS = 500, 50, 180.0  # the table has 500 + 3 * 50 rows
NAIVE = ("no lease", "before the commit")
RULES = """
[[watch]]
table = "public.audited"
keys = ["user:{id}:profile", "user:{id}:name"]

[refresh."user:{id}:profile"]
loader = "row"
table = "public.audited"
key = "id"

[refresh."user:{id}:name"]
loader = "sql"
query = "select name as value from public.audited where id = {id}"
"""
SCHEMA = """
create table public.audited (id bigint primary key, name text not null, version bigint not null default 0);
insert into public.audited select n, 'a' from generate_series(1, 650) as n;
select unstale.watch('public.audited', '{id}');
grant select on public.audited to unstale_worker;
"""
CHANGE = "update public.audited set version = version + 1, name = $2 where id = $1"


class Agent:
    """One agent with a writer of its own, through faults."""

    def __init__(self, running: Stack, seed: int) -> None:
        self._running, self._draw, self.changes = running, random.Random(seed), 0

    async def run(self, stop: asyncio.Event) -> None:
        """Change users and read them."""
        async with (
            asyncpg.create_pool(self._running.database_url, min_size=2, max_size=8) as pool,
            Cache.from_env(env_file=None, redis_url=self._running.redis_url) as cache,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._write(stop, pool))
            for _ in range(4):
                group.create_task(self._reads(stop, cache, pool))

    async def _write(self, stop: asyncio.Event, pool: Any) -> None:
        while not stop.is_set():
            await pool.execute(CHANGE, self._draw.randint(1, USERS), str(self._draw.random()))
            self.changes += 1
            await asyncio.sleep(0.02)

    async def _reads(self, stop: asyncio.Event, cache: Cache, pool: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(UnstaleError):
                await self._read(cache, pool, self._draw.randint(1, USERS))
            await asyncio.sleep(0)

    async def _read(self, cache: Cache, pool: Any, user: int) -> None:
        async def profile() -> dict[str, Any]:
            return dict(await pool.fetchrow("select * from public.audited where id = $1", user))

        async def name() -> str:
            found: str = await pool.fetchval("select name from public.audited where id = $1", user)
            return found

        await cache.get_or_load(f"user:{user}:profile", profile)
        await cache.get_or_load(f"user:{user}:name", name)


async def _faults(running: Stack, stop: asyncio.Event, done: dict[str, int]) -> None:
    """Pause and kill the worker, restart and empty Redis, in turn, until stopped."""
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(worker(running, rules=RULES))
        for kind in itertools.cycle(("pause worker", "kill worker", "restart Redis", "empty Redis")):
            await _within(stop, 3.0)
            if stop.is_set():
                return
            match kind:
                case "pause worker":
                    process.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(2.0)
                    process.send_signal(signal.SIGCONT)
                case "kill worker":
                    process.kill()
                    process = stack.enter_context(worker(running, rules=RULES))
                case "restart Redis":
                    await running.valkey.restart()
                case "empty Redis":
                    async with Redis.from_url(running.redis_url) as redis:
                        await redis.flushall()
            done[kind] = done.get(kind, 0) + 1


async def _within(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


@contextlib.asynccontextmanager
async def _auditing(running: Stack) -> AsyncIterator[Auditor]:
    stop = asyncio.Event()
    settings = WorkerSettings.from_env(
        env_file=None, database_url=running.worker_database_url, redis_url=running.redis_url
    )
    options = Options(delays=(1.0, 10.0), rate=100_000.0, tick=0.05)
    async with opened(settings, Rules.parse(RULES), options) as auditor:
        task = asyncio.create_task(auditor.run(stop))
        try:
            yield auditor
        finally:
            stop.set()
            await task


async def _until(condition: Any, seconds: float = SECONDS) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _true(condition)
    return bool(condition())


async def _true(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110  what is waited for is a number
        await asyncio.sleep(0.05)


async def audit(running: Stack, wanted: int) -> dict[str, Any]:
    """Audit a correct system until so many values were compared, then what is wrong on purpose."""
    stop, faults = asyncio.Event(), dict[str, int]()
    agents = [Agent(running, seed) for seed in (1, 2)]
    async with _auditing(running) as auditor:
        async with asyncio.TaskGroup() as group:
            group.create_task(_faults(running, stop, faults))
            for agent in agents:
                group.create_task(agent.run(stop))
            await _true(lambda: auditor.tally.total().compared >= wanted)
            stop.set()
        tally, violations = auditor.tally.total(), auditor.violations.count
        promises = auditor.tally.broken_promises
    redis, connection = Redis.from_url(running.redis_url), await asyncpg.connect(running.database_url)
    try:
        with worker(running, rules=RULES) as process:
            await leads(redis, process=process)
            async with _auditing(running) as auditor:
                planted = await _plant(redis, connection, process)
                wrong = {key for keys in planted.values() for key in keys}
                found = auditor.violations.found
                await _until(lambda: wrong <= {violation.key for violation in found})
                named = {violation.key for violation in found}
        return {
            "comparisons": tally.compared,
            "violations": violations,
            "broken_promises": promises,
            "false_positives": violations + len(named - wrong),
            "in_flight": tally.outcomes[Outcome.IN_FLIGHT],
            "changes": sum(agent.changes for agent in agents),
            "faults": sum(faults.values()),
            "planted": len(wrong),
            "planted_found": len(named & wrong),
            "naive_caches_caught": sum(planted[kind] <= named for kind in NAIVE)
            + await _shadow_sees_ttl(running, redis, connection),
        }
    finally:
        await redis.aclose()
        await connection.close()


async def _plant(redis: Any, connection: Any, process: Any) -> dict[str, set[str]]:
    """Store wrong values as two naive caches do, and as somebody does who writes to Redis."""
    planted: dict[str, set[str]] = {"by hand": set(), "no lease": set(), "before the commit": set()}
    for number in range(PLANTED):
        for offset, kind in enumerate(planted):
            user = USERS + 1 + 3 * number + offset
            key = f"user:{user}:name"
            old = json.dumps(await connection.fetchval("select name from public.audited where id = $1", user))
            if kind == "no lease":  # loaded before a change, stored after its invalidation
                await connection.execute(CHANGE, user, "b")
                xid = await connection.fetchval("select max(xid::text::bigint) from unstale.outbox")
                await applied(redis, xid, process=process)
                await redis.set(key, old, px=3_600_000)
            elif kind == "before the commit":  # stored by the writer, whose transaction is rolled back
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(CHANGE, user, "c")
                await redis.set(key, '"c"', px=3_600_000)
                await transaction.rollback()
            else:
                await redis.set(key, '"planted"', px=3_600_000)
            planted[kind].add(key)
    return planted


async def _shadow_sees_ttl(running: Stack, redis: Any, connection: Any) -> bool:
    """A cache that only has a TTL: no worker runs any more."""
    await redis.flushall()
    row = await connection.fetchval("select to_jsonb(a)::text from public.audited as a where id = 1")
    await redis.set("user:1:profile", row, px=3_600_000)
    settings = WorkerSettings.from_env(
        env_file=None, database_url=running.worker_database_url, redis_url=running.redis_url
    )
    stop = asyncio.Event()
    async with shadowing(settings, Rules.parse(RULES), tick=0.1) as shadow:
        task = asyncio.create_task(shadow.run(stop))
        fresh = await _until(lambda: shadow.looks > 5 and not shadow.as_dict()["stale"])
        await connection.execute(CHANGE, 1, "ttl")
        stale = await _until(lambda: bool(shadow.as_dict()["stale"]))
        stop.set()
        await task
    return fresh and stale

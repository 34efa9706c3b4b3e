"""How costs grow as something grows: keys, tables, rules, rows, values, entries.

Each axis is a function of its own. It measures CPU time where it can, of the process that pays, because a
busy machine disturbs that least. A cost is "flat" if its largest is at most 1.3 times its smallest; else the
exponent of its growth is given. With ``--write`` the figures go to bench/results/scale.json, and from there
into docs/performance.md.
"""

import asyncio
import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
from capture_cpu import cpu
from harness import applied, arguments, finish, leads, machine, peak_rss_mb, run, servers, worker
from hits import begin_history
from redis.asyncio import Redis
from scale_pages import RESULTS, write_pages
from values import beats

from unstale import Cache
from unstale.protocol.names import Names
from unstale.settings import AgentSettings
from unstale_worker.dev_servers import EmbeddedValkey

Costs = dict[str, list[float]]
AGAIN: Final = ".venv/bin/python bench/scale.py --write"
ROUNDS: Final = 5
"""Measurements of each cost; the median counts."""


@asynccontextmanager
async def attached_cache(**settings: Any) -> AsyncIterator[tuple[Cache, Redis]]:
    """A cache on a Valkey of its own, with a stand-in for the worker's watermarks."""
    async with EmbeddedValkey() as valkey, Redis.from_url(valkey.url) as redis:
        await begin_history(redis, Names())
        fresh = asyncio.create_task(beats(redis))
        try:
            chosen = AgentSettings.from_env(env_file=None, redis_url=valkey.url, **settings)
            async with Cache(chosen) as cache:
                await attached(cache)
                yield cache, redis
        finally:
            fresh.cancel()
            await asyncio.wait([fresh])


async def attached(cache: Cache) -> None:
    """Wait until the cache trusts its near cache."""
    for _ in range(6_000):
        if cache.attached:
            return
        await asyncio.sleep(0.01)
    raise SystemExit("the cache does not attach")


async def near_entries(sizes: Sequence[int]) -> Costs:
    """Entries of a near cache: memory of each, and CPU of a hit on a key at random."""
    costs: Costs = {"bytes of memory an entry": [], "µs of CPU a hit": []}
    async with attached_cache(near_max_entries=10_000_000, near_max_bytes=1 << 34) as (cache, _):
        near, chance = cache.inspect().local.near, random.Random(1)
        value = orjson.dumps({"id": 1, "name": "Ada Lovelace", "bio": "x" * 380})
        gc.collect()
        before, held = resident(), 0
        for size in sizes:
            for start in range(held, size, 10_000):
                for number in range(start, min(start + 10_000, size)):
                    # A copy each, as if each had been read from Redis by itself.
                    near.put(f"user:{number}:profile", bytes(bytearray(value)), expires=float("inf"))
                await asyncio.sleep(0.01)  # the subscriber has to live, too
            held = size
            gc.collect()
            await attached(cache)
            costs["bytes of memory an entry"].append((resident() - before) / size)
            keys = [f"user:{chance.randrange(size)}:profile" for _ in range(10_000)]

            async def hits(keys: list[str] = keys) -> None:
                for key in keys:
                    await cache.get_or_load(key, never)

            costs["µs of CPU a hit"].append(await cpu_of(hits, len(keys)))
    return costs


async def keys_in_redis(sizes: Sequence[int]) -> Costs:
    """Keys in Redis: CPU of Redis for a key deleted, a tag invalidated, a pattern that matches nothing."""
    costs: Costs = {
        "µs of Redis a delete": [],
        "µs of Redis a tag": [],
        "ms of Redis a pattern": [],
        "bytes of Redis a key": [],
    }
    async with attached_cache() as (cache, redis):
        empty, held = (await redis.info())["used_memory"], 0
        for size in sizes:
            for start in range(held, size, 5_000):
                await redis.mset(
                    {f"user:{n}:profile": "x" * 100 for n in range(start, min(start + 5_000, size))}
                )
            held = size
            costs["bytes of Redis a key"].append(((await redis.info())["used_memory"] - empty) / size)

            async def deletes() -> None:
                for number in range(300):
                    await cache.delete(f"other:{number}")

            async def tags() -> None:
                for number in range(300):
                    await cache.invalidate_tag(f"tag:{number}")

            async def pattern() -> None:
                await cache.invalidate_pattern("nothing:*")

            costs["µs of Redis a delete"].append(1e6 * await redis_cpu(redis, deletes) / 300)
            costs["µs of Redis a tag"].append(1e6 * await redis_cpu(redis, tags) / 300)
            costs["ms of Redis a pattern"].append(1e3 * await redis_cpu(redis, pattern))
    return costs


async def value_bytes(sizes: Sequence[int]) -> Costs:
    """Size of a value: CPU of the agent for a hit in memory and from Redis, and of Redis."""
    costs: Costs = {
        "µs of CPU a hit in memory": [],
        "µs of CPU a hit from Redis": [],
        "µs of Redis a hit": [],
    }
    async with attached_cache() as (cache, redis):
        drop = cache.inspect().local.near.drop
        for size in sizes:
            key, value = f"user:{size}:profile", {"text": "x" * (size - 11)}

            async def load(value: dict[str, str] = value) -> dict[str, str]:
                return value

            await cache.get_or_load(key, load, ttl=600)
            number = max(20, min(5_000, 20_000_000 // size))

            async def near(key: str = key, number: int = number) -> None:
                for _ in range(number):
                    await cache.get_or_load(key, never)

            async def far(key: str = key, number: int = min(number, 300)) -> None:
                for _ in range(number):
                    drop(key)
                    await cache.get_or_load(key, never)

            costs["µs of CPU a hit in memory"].append(await cpu_of(near, number))
            costs["µs of CPU a hit from Redis"].append(await cpu_of(far, min(number, 300)))
            costs["µs of Redis a hit"].append(1e6 * await redis_cpu(redis, far) / min(number, 300))
    return costs


TABLE: Final = """
create table if not exists public.t{number} (id int primary key, n int not null default 0);
insert into public.t{number} select g, 0 from generate_series(1, 2000) as g on conflict do nothing;
select unstale.watch('public.t{number}', '{{id}}');
"""
UPDATES: Final = """
do $$ begin for i in 1..500 loop update public.t0 set n = n + 1 where id = 1 + i % 2000; end loop; end $$
"""
CREATES: Final = "create table public.passing (id int); drop table public.passing; " * 5


async def watched_tables(sizes: Sequence[int]) -> Costs:
    """Watched tables with a rule each: CPU of a session for an UPDATE and for DDL, and of the worker."""
    costs: Costs = {
        "µs of Postgres an UPDATE": [],
        "ms of Postgres a CREATE and DROP": [],
        "µs of the worker a change": [],
    }
    async with servers(sql="", fsync=False) as running, Redis.from_url(running.redis_url) as redis:
        connection = await asyncpg.connect(running.postgres.dsn(user="supabase_admin"), command_timeout=300)
        pid, made = await connection.fetchval("select pg_backend_pid()"), 0
        for size in sizes:
            for number in range(made, size):
                await connection.execute(TABLE.format(number=number))
            made = size
            updates, creates = [], []
            for _ in range(ROUNDS):
                updates.append(await session_cpu(connection, pid, UPDATES) / 500 / 1e3)
                creates.append(await session_cpu(connection, pid, CREATES) / 5 / 1e6)
            costs["µs of Postgres an UPDATE"].append(statistics.median(updates))
            costs["ms of Postgres a CREATE and DROP"].append(statistics.median(creates))
            rules = "".join(
                f'[[watch]]\ntable = "public.t{n}"\nkeys = ["t{n}:{{id}}:row"]\n\n' for n in range(size)
            )
            with worker(running, rules=rules) as process:
                await leads(redis, process=process)
                await changed(connection, redis, process, rows=2_000)  # everything is loaded and compiled
                began = cpu(process.pid)
                for _ in range(10):
                    await changed(connection, redis, process, rows=2_000)
                costs["µs of the worker a change"].append((cpu(process.pid) - began) / 20_000 / 1e3)
        await connection.close()
    return costs


async def changed(connection: asyncpg.Connection, redis: Redis, process: Any, *, rows: int) -> None:
    """Change so many rows of the first table in one statement, and wait until that is applied."""
    async with connection.transaction():
        await connection.execute("update public.t0 set n = n + 1 where id <= $1", rows)
        xid = int(await connection.fetchval("select pg_current_xact_id()::text"))
    await applied(redis, xid, process=process)


async def rows_of_a_transaction(sizes: Sequence[int]) -> Costs:
    """Rows of one transaction: CPU of the worker for each, and its memory."""
    costs: Costs = {"µs of the worker a row": [], "MB of the worker at most": []}
    async with servers(sql="", fsync=False) as running, Redis.from_url(running.redis_url) as redis:
        connection = await asyncpg.connect(running.database_url, command_timeout=600)
        await connection.execute(TABLE.format(number=0))
        await connection.execute(
            "insert into public.t0 select g, 0 from generate_series(2001, $1::int) as g", sizes[-1]
        )
        for size in sizes:
            with worker(running, rules='[[watch]]\ntable = "public.t0"\nkeys = ["t0:{id}:row"]\n') as process:
                await leads(redis, process=process)
                await changed(connection, redis, process, rows=100)
                began, times = cpu(process.pid), max(1, 100_000 // size)
                for _ in range(times):
                    await changed(connection, redis, process, rows=size)
                spent = cpu(process.pid) - began
                costs["µs of the worker a row"].append(spent / times / size / 1e3)
                costs["MB of the worker at most"].append(peak_rss_mb(process.pid))
        await connection.close()
    return costs


AXES: Final[dict[str, tuple[Callable[[Sequence[int]], Awaitable[Costs]], tuple[int, ...]]]] = {
    "near_entries": (near_entries, (1_000, 10_000, 100_000, 1_000_000)),
    "keys_in_redis": (keys_in_redis, (10_000, 100_000, 1_000_000)),
    "watched_tables": (watched_tables, (1, 10, 100, 300)),
    "rows_of_a_transaction": (rows_of_a_transaction, (1_000, 10_000, 100_000, 1_000_000)),
    "value_bytes": (value_bytes, (100, 1_000, 10_000, 100_000, 1_000_000)),
}
"""Each axis, and the sizes at which it is measured; ``--quick`` leaves the largest out. The near cache
comes first: later its process would have memory to use again."""


async def never() -> object:
    raise AssertionError("a hit loads nothing")


def resident() -> int:
    """Bytes of memory that this process holds now (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


async def cpu_of(work: Callable[[], Awaitable[None]], number: int) -> float:
    """Microseconds of this thread's CPU for one of ``number``; the median of some rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        await work()
        found.append((time.thread_time() - began) / number * 1e6)
        await asyncio.sleep(0.01)
    return statistics.median(found)


async def redis_cpu(redis: Redis, work: Callable[[], Awaitable[None]]) -> float:
    """CPU seconds of Redis while the work is done; the median of some rounds."""

    async def used() -> float:
        found = await redis.info("cpu")
        return float(found["used_cpu_user"] + found["used_cpu_sys"])

    found = []
    for _ in range(ROUNDS):
        began = await used()
        await work()
        found.append(await used() - began)
    return statistics.median(found)


async def session_cpu(connection: asyncpg.Connection, pid: int, sql: str) -> int:
    """Nanoseconds of CPU that a session used for some statements."""
    began = cpu(pid)
    await connection.execute(sql)
    return cpu(pid) - began


async def main() -> None:
    options = arguments(__doc__ or "", repeats=1, write=False, only="")
    figures: dict[str, Any] = {}
    load = os.getloadavg()[0]
    for name, (axis, sizes) in AXES.items():
        if not options.only or name in options.only.split(","):
            chosen = sizes[:-1] if options.quick else sizes
            print(f"{name}: {', '.join(map(str, chosen))}", file=sys.stderr, flush=True)
            figures[name] = {
                cost: dict(zip(map(str, chosen), (round(each, 3) for each in found), strict=True))
                for cost, found in (await axis(chosen)).items()
            }
    finish("scale", figures, as_json=options.json, repeats=1)
    if options.write:
        RESULTS.write_text(
            json.dumps(
                {"figures": figures, "machine": machine(), "load": round(load, 1), "again": AGAIN}, indent=1
            )
            + "\n"
        )
        for path in write_pages():
            print(f"written: {path}")


if __name__ == "__main__":
    run(main)

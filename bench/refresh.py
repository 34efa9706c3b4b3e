"""How fast changed keys are refreshed, what readers of a slow greeting notice, and what killed workers cost.

``row``: commit until the new row is readable in Redis, one at a time (p50), beside the time until the
old one is gone; and 50,000 rows of one transaction (per_s). ``greeting``: a model of 700 ms behind
``serve_stale``; its input changes every second while an agent without a near cache reads.
``killed_workers``: four refresh workers, one killed every 5 s for a minute, while rows change;
afterwards every value is compared with the database, and every fill that Redis saw with the one before
it. ``python``: what a refresh by a Python loader costs that does nothing.
"""

import asyncio
import random
import time
from typing import Any

import asyncpg
from harness import arguments, finish, leads, medians, percentile, run, servers
from redis.asyncio import Redis
from refresh_kills import killed_workers
from refresh_python import nothing_to_load
from refresh_stage import GREETINGS, NAMES, ROWS, SCHEMA, counted, processes, settled, until

from unstale import Cache
from unstale_worker.dev_servers import Stack

# --- rows -------------------------------------------------------------------------------------------


async def rows(
    running: Stack, redis: Redis, db: asyncpg.Connection, *, samples: int, bulk: int
) -> dict[str, float]:
    with processes(running, ROWS) as workers:
        await leads(redis, process=workers.start())
        delays, gone = [], []
        for number in range(1, samples + 1):
            key = f"user:{number}:profile"
            await redis.set(key, b"{}", px=600_000)
            await db.execute("update public.profiles set version = version + 1 where id = $1", number)
            committed = time.perf_counter()
            while (found := await redis.get(key)) == b"{}":
                pass
            gone.append(time.perf_counter() - committed)
            while not (isinstance(found, bytes) and found.startswith(b'{"id"')):
                found = await redis.get(key)
            delays.append(time.perf_counter() - committed)
        keys = [f"user:{number}:profile" for number in range(1, bulk + 1)]
        for start in range(0, bulk, 1000):
            await redis.mset(dict.fromkeys(keys[start : start + 1000], b"{}"))
        before = int(await redis.hget(NAMES.refresh_counts, "filled") or 0)
        await db.execute("update public.profiles set version = version + 1 where id <= $1", bulk)
        began = time.perf_counter()

        async def all_filled() -> bool:
            return int(await redis.hget(NAMES.refresh_counts, "filled") or 0) - before >= bulk

        await until(all_filled)
        took = time.perf_counter() - began
    return {
        "p50_ms": 1000 * percentile(delays, 0.5),
        "p99_ms": 1000 * percentile(delays, 0.99),
        "invalidated_p50_ms": 1000 * percentile(gone, 0.5),
        "per_s": bulk / took,
    }


# --- a slow greeting ----------------------------------------------------------------------------------


async def greeting(
    running: Stack, redis: Redis, db: asyncpg.Connection, *, seconds: float
) -> dict[str, float]:
    """Ten users' greetings, read 200 times a second; every user's profile changes every second."""
    users, model = range(1, 11), 0.7
    with processes(running, GREETINGS, seconds=model) as workers:
        await leads(redis, process=workers.start())
        workers.start("--role", "refresh")
        delays: list[float] = []
        readers_loads = 0

        async def load() -> object:
            nonlocal readers_loads
            readers_loads += 1
            await asyncio.sleep(model)
            return {"greeting": "by a reader", "version": -1}

        async with Cache.from_env(redis_url=running.redis_url, near_max_entries=0) as cache:
            await asyncio.gather(*(cache.get_or_load(f"user:{n}:greeting", load, ttl=3600) for n in users))
            first_loads, end = readers_loads, time.monotonic() + seconds

            async def change() -> None:
                while time.monotonic() < end:
                    await db.execute("update public.profiles set version = version + 1 where id <= 10")
                    await asyncio.sleep(1.0)

            changing = asyncio.create_task(change())
            while time.monotonic() < end:
                began = time.perf_counter()
                await cache.get_or_load(f"user:{random.choice(users)}:greeting", load, ttl=3600)
                delays.append(time.perf_counter() - began)
                await asyncio.sleep(0.005)
            await changing
            stale = cache.counters().stale_hits
        await until(lambda: settled(redis))
        calls = await counted(redis)
    per_key = (calls.get("filled", 0) + calls.get("overtaken", 0)) / len(users)
    return {
        "reader_p50_ms": 1000 * percentile(delays, 0.5),
        "reader_p99_ms": 1000 * percentile(delays, 0.99),
        "reader_max_ms": 1000 * max(delays),
        "reads": len(delays),
        "stale_reads": stale,
        "calls": per_key * len(users),
        "calls_a_key_per_700_ms": per_key / (seconds / model),
        "calls_of_readers": readers_loads - first_loads,
    }


PARTS = ("row", "greeting", "killed_workers", "python")


async def main() -> None:
    options = arguments(__doc__ or "", repeats=1, parts=",".join(PARTS))
    chosen = options.parts.split(",")
    scale = 0.1 if options.quick else 1.0
    runs: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        figures: dict[str, Any] = {}
        for part in chosen:
            async with servers(sql=SCHEMA) as running, Redis.from_url(running.redis_url) as redis:
                db = await asyncpg.connect(running.database_url)
                if part == "row":
                    figures[part] = await rows(
                        running, redis, db, samples=int(2000 * scale), bulk=int(50_000 * scale)
                    )
                elif part == "greeting":
                    figures[part] = await greeting(running, redis, db, seconds=max(8.0, 30 * scale))
                elif part == "killed_workers":
                    figures[part] = await killed_workers(running, redis, db, seconds=max(12.0, 60 * scale))
                else:
                    figures[part] = await nothing_to_load(running, redis, jobs=int(5000 * scale))
                await db.close()
        runs.append(figures)
    finish("refresh", medians(runs), as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    run(main)

"""Case 36: refresh workers are killed and stopped, and Redis is emptied: every key is refreshed once.

A key leaves the refresh set only with the fill whose lease stood, and no lease is acquired for a key that is
not in the set: `refresh_acquire.lua`, which test_refresh_python.py shows by itself.
"""

import asyncio
import json

import pytest
from redis.asyncio import Redis

from servers import Database, eventually
from workers import connected, redis_at, running_worker
from workers.refresh_stage import NAMES, counts, due, settled
from workers.refresh_workers import RULES, refresh_workers

SCHEMA = """
create table public.profiles (id bigint primary key, name text);
select unstale.watch('public.profiles', '{id}');
"""
KEYS = [f"user:{n}:greeting" for n in range(15)]


async def renamed(redis: Redis, round_: int) -> None:
    """Change what the loaders read, and make all keys due."""
    await redis.mset({f"test:name:{n}": f"round {round_}" for n in range(len(KEYS))})
    await due(redis, *KEYS)


async def expect_round(redis: Redis, round_: int) -> None:
    values = await redis.mget(KEYS)
    assert [json.loads(value or "null") for value in values] == [{"greeting": f"round {round_}"}] * len(KEYS)


async def alone(redis: Redis, workers: int) -> None:
    """Wait until so many refresh workers are heard of, and the leader calls no loader any more."""

    async def heard() -> bool:
        return int(await redis.zcard(NAMES.refresh_workers)) == workers

    await eventually(heard, timeout=60, message=f"{workers} workers are heard of")


@pytest.mark.leaves_keys("test:.*")
async def test_killed_workers_lose_nothing_and_nothing_is_filled_twice(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        with refresh_workers(redis_url, 4, UNSTALE_REFRESH_TAKEOVER="2") as workers:
            async with running_worker(database.dsn, redis_url, rules=RULES, refresh_takeover=2.0):
                await alone(redis, 4)
                for round_ in range(3):
                    before = await counts(redis)
                    await renamed(redis, round_)
                    await eventually(lambda: redis.exists("test:running"))
                    workers.kill(round_)
                    workers.start(round_)
                    await settled(redis, timeout=60)
                    await expect_round(redis, round_)
                    after = await counts(redis)
                    assert after["filled"] - before.get("filled", 0) == len(KEYS), "each key once"
                assert set(after) == {"filled"}
                most = max(int(n) for n in await redis.lrange("test:most_running", 0, -1))
                # A killed loader is counted as running until it would have ended.
                assert most <= 6 + 6
                assert int(await redis.get("test:calls") or 0) >= 3 * len(KEYS)


@pytest.mark.leaves_keys("test:.*")
async def test_a_stopped_worker_ends_what_it_runs_and_takes_no_more(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        with refresh_workers(redis_url, 2, LOADER_SECONDS="1") as workers:
            async with running_worker(database.dsn, redis_url, rules=RULES):
                await alone(redis, 2)
                await renamed(redis, 0)
                await eventually(lambda: redis.exists("test:running"))
                code = await asyncio.to_thread(workers.terminate, 0)
                assert code == 0
                assert "their keys are due again" not in workers.log(0)
                await settled(redis, timeout=60)
                await expect_round(redis, 0)
                assert int(await redis.get("test:calls") or 0) == len(KEYS), "no call was wasted"


@pytest.mark.leaves_keys("test:.*")
async def test_a_loader_that_outlives_the_grace_is_left_to_another(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        settings = {"LOADER_SECONDS": "1.5", "UNSTALE_REFRESH_GRACE": "0.2"}
        with refresh_workers(redis_url, 1, **settings) as workers:
            async with running_worker(database.dsn, redis_url, rules=RULES):
                await alone(redis, 1)
                await renamed(redis, 0)
                await eventually(lambda: redis.exists("test:running"))
                assert await asyncio.to_thread(workers.terminate, 0) == 0
                assert "their keys are due again" in workers.log(0)
                assert await redis.zcard(NAMES.refresh) == len(KEYS)
                workers.start(1)
                await settled(redis, timeout=90)
                await expect_round(redis, 0)


@pytest.mark.leaves_keys("test:.*")
async def test_redis_is_emptied_under_the_workers(database: Database, redis_url: str) -> None:
    """Set, slots and workers are gone; what is due afterwards is refreshed as ever."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        with refresh_workers(redis_url, 2):
            async with running_worker(database.dsn, redis_url, rules=RULES):
                await alone(redis, 2)
                await renamed(redis, 0)
                await eventually(lambda: redis.exists("test:running"))
                await redis.flushall()
                await eventually(lambda: redis.hexists(NAMES.state, "epoch"))
                await renamed(redis, 1)
                await settled(redis, timeout=60)
                await expect_round(redis, 1)

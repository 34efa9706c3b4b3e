"""From a committed change to the new value: which loaders run, how often, and the value at the end."""

import asyncio
import json

import pytest

import refresh_loaders
from servers import Database, eventually
from workers import applied, connected, redis_at, running_worker, worker_process
from workers.refresh_stage import NAMES, counts, filled, settled

SCHEMA = """
create table public.profiles (id bigint primary key, name text, version bigint not null default 0);
insert into public.profiles select n, 'User ' || n from generate_series(1, 3000) n;
select unstale.watch('public.profiles', '{id}');
grant select on public.profiles to unstale_worker;
"""

ROWS = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[refresh."user:{user_id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"
columns = ["name", "version"]
ttl = "1h"
"""

GREETINGS = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:greeting"]

[refresh."user:{user_id}:greeting"]
loader = "refresh_loaders:greeting"
serve_stale = "30s"
debounce = "100ms"
"""


@pytest.fixture(autouse=True)
def _fresh_loaders() -> None:
    refresh_loaders.reset()


async def test_a_cached_row_is_written_through_and_an_uncached_one_is_not(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=ROWS):
            await redis.set("user:1:profile", b'{"old":true}', px=60_000)
            await db.execute("update public.profiles set name = 'Ada' where id in (1, 2)")

            async def written() -> bool:
                return b"Ada" in (await redis.get("user:1:profile") or b"")

            await eventually(written)
            await applied(redis, db)
            await settled(redis)
            assert not await redis.exists("user:2:profile")
            assert await counts(redis) == {"filled": 1}


async def test_many_rows_of_one_transaction_are_all_written_through(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=ROWS) as worker:
            keys = [f"user:{n}:profile" for n in range(1, 3001)]
            await redis.mset(dict.fromkeys(keys, b"{}"))
            await db.execute("update public.profiles set version = version + 1")
            await applied(redis, db)
            await settled(redis, timeout=60)
            values = [json.loads(value or "null") for value in await redis.mget(keys)]
            assert values == [{"name": f"User {n}", "version": 1} for n in range(1, 3001)]
            await eventually(lambda: worker.status().refreshed.filled == 3000)


async def test_a_hot_key_is_loaded_at_the_pace_of_its_loader_and_ends_right(
    database: Database, redis_url: str
) -> None:
    """300 changes as fast as they go: one load at a time, some of them, and the last state at the end."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=GREETINGS):
            key = "user:1:greeting"
            await redis.set(key, b'"old"', px=60_000)
            for number in range(300):
                await db.execute("update public.profiles set name = $1 where id = 1", f"Ada {number}")
            await applied(redis, db)
            assert json.loads(await filled(redis, key))["greeting"] == "Hello Ada 299"
            await settled(redis)
            assert refresh_loaders.most_running == 1
            assert 1 <= refresh_loaders.calls[key] < 150


async def test_a_burst_costs_one_load(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        rules = GREETINGS.replace('"100ms"', '"4s"')
        async with running_worker(database.dsn, redis_url, rules=rules):
            key = "user:1:greeting"
            await redis.set(key, b'"old"', px=60_000)
            for number in range(5):
                await db.execute("update public.profiles set name = $1 where id = 1", f"Ada {number}")
                await applied(redis, db)
            assert await redis.get(NAMES.stale(key)) == b'"old"', "served meanwhile"
            assert json.loads(await filled(redis, key)) == {"greeting": "Hello Ada 4", "call": 1}
            assert not await redis.exists(NAMES.stale(key))


async def test_a_killed_leader_leaves_its_work_to_the_next(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        keys = [f"user:{n}:profile" for n in range(1, 3001)]
        with worker_process(database.dsn, redis_url, rules=ROWS) as process:
            await eventually(lambda: redis.hexists(NAMES.state, "epoch"), timeout=60)
            await redis.mset(dict.fromkeys(keys, b"{}"))
            await db.execute("update public.profiles set version = version + 1")
            await eventually(lambda: redis.exists(NAMES.refresh))
            process.kill()
            await asyncio.to_thread(process.wait)
            # What the dead leader had claimed is not due before a minute has passed.
            await redis.zadd(NAMES.refresh, {keys[0]: 4_000_000_000_000})
            await redis.unlink(keys[0])
        async with running_worker(database.dsn, redis_url, rules=ROWS):
            await applied(redis, db)
            await settled(redis, timeout=60)
            values = [json.loads(value or "null") for value in await redis.mget(keys)]
            assert values == [{"name": f"User {n}", "version": 1} for n in range(1, 3001)]

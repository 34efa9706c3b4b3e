"""Refresh workers beside a leader: which process calls the loaders, and what happens without Redis."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

import refresh_loaders
from servers import Database, eventually
from servers.proxy import Proxy
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.observe.status import Role
from unstale_worker.refresh.refresh_worker import RefreshWorker
from unstale_worker.rules import Rules
from workers import connected, redis_at, running_worker, settings_for
from workers.refresh_stage import NAMES, due, filled, settled

SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles select n, 'User ' || n from generate_series(1, 100) n;
select unstale.watch('public.profiles', '{id}');
"""

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:greeting"]

[refresh."user:{user_id}:greeting"]
loader = "refresh_loaders:greeting"
"""


@pytest.fixture(autouse=True)
def _fresh_loaders() -> None:
    refresh_loaders.reset()


@asynccontextmanager
async def refresh_worker(dsn: str, redis_url: str) -> AsyncIterator[RefreshWorker]:
    """Run a refresh worker in this event loop, and wait until it is ready."""
    worker = RefreshWorker(settings_for(dsn, redis_url), Rules.parse(RULES))
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop=stop))
    try:
        await eventually(lambda: task.done() or worker.status().ready)
        if task.done():
            task.result()
        yield worker
    finally:
        stop.set()
        await task


async def test_the_leader_calls_loaders_only_without_a_refresh_worker(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        with structlog.testing.capture_logs() as logs:
            async with running_worker(database.dsn, redis_url, rules=RULES) as leader:
                await due(redis, "user:1:greeting")
                await filled(redis, "user:1:greeting")
                await eventually(lambda: leader.status().refreshed.filled == 1)
                async with refresh_worker(database.dsn, redis_url) as other:
                    assert other.status().role is Role.REFRESHING
                    await eventually(
                        lambda: any("leaves the loaders" in line["event"] for line in logs),
                        message="the leader leaves the loaders to the worker",
                    )
                    assert await redis.zrange(NAMES.refresh_workers, 0, -1) == [other.name.encode()]
                    keys = [f"user:{n}:greeting" for n in range(2, 12)]
                    await due(redis, *keys)
                    await settled(redis)
                    # A value can be read a moment before its process has counted it.
                    await eventually(lambda: other.status().refreshed.filled == len(keys))
                    assert leader.status().refreshed.filled == 1
                    assert leader.status().refreshed.dispatched >= 1 + len(keys)
                await due(redis, "user:20:greeting")
                await filled(redis, "user:20:greeting", timeout=30)
                await eventually(
                    lambda: leader.status().refreshed.filled == 2, message="the leader stands in"
                )


@pytest.mark.parametrize("how", ["refused", "half-open"])
async def test_redis_is_away_for_a_while(
    database: Database, valkey: EmbeddedValkey, redis_url: str, how: str
) -> None:
    """Leader and refresh worker lose it together; afterwards every key is refreshed."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with (
            Proxy(valkey.port) as proxy,
            running_worker(database.dsn, proxy.url(redis_url), rules=RULES),
            refresh_worker(database.dsn, proxy.url(redis_url)) as other,
        ):
            await due(redis, "user:1:greeting")
            await filled(redis, "user:1:greeting")
            if how == "refused":
                await proxy.refuse()
                proxy.cut()
            else:
                proxy.half_open()
            await eventually(lambda: not other.status().ready)
            await due(redis, *(f"user:{n}:greeting" for n in range(2, 12)))
            await proxy.heal()
            await eventually(lambda: other.status().ready, timeout=30)
            await settled(redis, timeout=90)
            values = await redis.mget([f"user:{n}:greeting" for n in range(1, 12)])
            assert [json.loads(value or "{}").get("greeting") for value in values] == [
                f"Hello User {n}" for n in range(1, 12)
            ]

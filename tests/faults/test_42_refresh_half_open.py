"""42: connections of refreshes to Redis are half open: no error arrives, and nothing that is sent does.

Guards: every command has a time limit, and one that runs out ends in a new connection (the multiplexer's).
Without it no test here ends in time.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

import refresh_loaders
from servers import Database, eventually
from servers.proxy import Proxy
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.refresh.redis.presence import Presence
from unstale_worker.refresh.redis.reservations import Reservations
from workers import connected, redis_at, running_worker
from workers.refresh_stage import NAMES, due, filled, settled
from workers.refresh_workers import refresh_workers

SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles select n, 'Ada' from generate_series(1, 8) n;
select unstale.watch('public.profiles', '{id}');
"""
RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:greeting"]

[refresh."user:{user_id}:greeting"]
loader = "refresh_loaders:greeting"
"""


async def test_a_leader_that_calls_loaders_itself(database: Database, valkey: EmbeddedValkey) -> None:
    refresh_loaders.reset()
    async with (
        connected(database.dsn) as db,
        redis_at(valkey.url) as redis,
        Proxy(valkey.port) as proxy,
    ):
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, proxy.url(valkey.url), rules=RULES, redis_timeout=0.5):
            await due(redis, "user:1:greeting")
            await filled(redis, "user:1:greeting")
            proxy.half_open(new=False)
            await due(redis, "user:2:greeting")
            assert json.loads(await filled(redis, "user:2:greeting", timeout=60))["greeting"] == "Hello Ada"
            await settled(redis, timeout=60)


@pytest.mark.leaves_keys("test:.*")
async def test_a_refresh_worker(database: Database, valkey: EmbeddedValkey) -> None:
    """The leader hears of it again, so it calls loaders again."""
    async with (
        connected(database.dsn) as db,
        redis_at(valkey.url) as redis,
        Proxy(valkey.port) as proxy,
    ):
        await db.execute(SCHEMA)
        with refresh_workers(proxy.url(valkey.url), 1, LOADER_SECONDS="0.05") as workers:
            heard = NAMES.refresh_workers
            await eventually(lambda: redis.zcard(heard), timeout=60)
            proxy.half_open(new=False)
            await redis.delete(heard)
            await eventually(lambda: redis.zcard(heard), timeout=60, message="it is heard of again")
            assert workers.processes[0].poll() is None


@pytest.mark.parametrize(("owner", "method"), [(Reservations, "reserve"), (Presence, "any")])
async def test_a_leader_ends_though_a_client_drops_its_cancellation(
    database: Database, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    """As ``asyncio.wait_for`` may do before Python 3.12."""
    refresh_loaders.reset()
    asked, real = asyncio.Event(), getattr(owner, method)

    async def swallow(*given: Any, **named: Any) -> Any:
        if asked.is_set():
            return await real(*given, **named)
        asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return await real(*given, **named)

    monkeypatch.setattr(owner, method, swallow)
    async with connected(database.dsn) as db, redis_at(valkey.url) as redis:
        await db.execute(SCHEMA)
        async with asyncio.timeout(60), running_worker(database.dsn, valkey.url, rules=RULES):
            await due(redis, "user:1:greeting")
            await eventually(asked.is_set)


async def test_a_worker_ends_though_nothing_answers(database: Database, valkey: EmbeddedValkey) -> None:
    refresh_loaders.reset()
    async with connected(database.dsn) as db, redis_at(valkey.url) as redis, Proxy(valkey.port) as proxy:
        await db.execute(SCHEMA)
        async with asyncio.timeout(90):
            async with running_worker(database.dsn, proxy.url(valkey.url), rules=RULES, redis_timeout=0.5):
                await due(redis, "user:1:greeting")
                await filled(redis, "user:1:greeting")
                proxy.half_open()

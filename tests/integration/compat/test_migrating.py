"""Why old and new instances must not share keys, as docs/migrating.md says."""

from __future__ import annotations

import asyncio
import json

import pytest

from servers import Database
from unstale import Cache
from workers import PROFILES, SCHEMA, connected, redis_at, running_worker


async def test_an_old_instance_cannot_read_a_value_that_is_being_loaded(
    database: Database, redis_url: str
) -> None:
    loading, finish = asyncio.Event(), asyncio.Event()

    async def load() -> dict[str, str]:
        loading.set()
        await finish.wait()
        return {"name": "Ada"}

    async with connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
    async with (
        running_worker(database.dsn, redis_url),
        Cache.from_env(env_file=None, redis_url=redis_url) as cache,
        redis_at(redis_url) as old,
    ):
        reading = asyncio.create_task(cache.get_or_load("user:1:profile", load))
        await loading.wait()
        found = await old.get("user:1:profile")
        assert found is not None
        with pytest.raises(ValueError, match=r"Expecting value|utf-8|codec"):
            json.loads(found)

        finish.set()
        await reading
        assert json.loads(await old.get("user:1:profile") or "null") == {"name": "Ada"}


async def test_a_value_that_an_old_instance_puts_in_is_believed(database: Database, redis_url: str) -> None:
    """What makes it forbidden: nobody can tell such a value from one that was loaded under a lease."""
    async with connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
    async with (
        running_worker(database.dsn, redis_url),
        Cache.from_env(env_file=None, redis_url=redis_url) as cache,
        redis_at(redis_url) as old,
    ):
        await old.set("user:1:profile", json.dumps({"name": "from before the change"}), ex=3600)

        value = await cache.get_or_load("user:1:profile", lambda: {"name": "true"})

        assert value == {"name": "from before the change"}


async def test_the_first_worker_removes_what_an_old_system_left_behind(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
    async with redis_at(redis_url) as old:
        await old.set("user:1:profile", b"{}", ex=3600)
        await old.set("user:1:other", b"{}", ex=3600)

        async with running_worker(database.dsn, redis_url, rules=PROFILES):
            assert await old.exists("user:1:profile") == 0
            assert await old.exists("user:1:other") == 1

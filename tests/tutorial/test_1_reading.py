"""Page 1: reading through the cache. Read these tests in order; each shows one thing."""

import asyncpg

from unstale import Cache


async def test_a_value_is_loaded_once_and_remembered(cache: Cache, db: asyncpg.Connection) -> None:
    loads = 0

    async def load_profile() -> dict[str, object]:
        nonlocal loads
        loads += 1
        [profile] = await db.fetch("select * from profiles where id = 42")
        return dict(profile)

    for _ in range(3):
        profile = await cache.get_or_load("user:42:profile", load_profile)
        assert profile == {"id": 42, "name": "Ada"}
    assert loads == 1


async def test_a_committed_change_removes_it_by_itself(cache: Cache, db: asyncpg.Connection) -> None:
    async def load_name() -> str:
        name: str = await db.fetchval("select name from profiles where id = 42")
        return name

    assert await cache.get_or_load("user:42:profile", load_name) == "Ada"

    # Nobody tells the cache: the trigger, the worker and the subscriber do.
    async with cache.subscribe("user:42:*") as events:
        await db.execute("update profiles set name = 'Ada Lovelace' where id = 42")
        await anext(events)
    assert await cache.get_or_load("user:42:profile", load_name) == "Ada Lovelace"


async def test_what_one_instance_loaded_the_others_find_in_redis(cache: Cache, other_instance: Cache) -> None:
    async def must_not_run() -> object:
        raise AssertionError("it is in Redis already")

    await cache.get_or_load("user:42:profile", lambda: {"name": "Ada"})
    assert await other_instance.get_or_load("user:42:profile", must_not_run) == {"name": "Ada"}


async def test_not_found_is_an_answer_too(cache: Cache, db: asyncpg.Connection) -> None:
    async def load_profile() -> object:
        row = await db.fetchrow("select * from profiles where id = 7")
        return dict(row) if row else None

    assert await cache.get_or_load("user:7:profile", load_profile) is None
    async with cache.subscribe("user:7:profile") as events:
        await db.execute("insert into profiles values (7, 'Grace')")
        await anext(events)
    assert await cache.get_or_load("user:7:profile", load_profile) == {"id": 7, "name": "Grace"}

"""Page 2: writing. Write to the database as always; the cache follows, and you can wait for it."""

import asyncpg

from unstale import Cache


async def test_get_load_set_as_it_always_was(cache: Cache) -> None:
    profile = await cache.get("user:42:profile")
    if profile is None:
        profile = {"name": "Ada"}  # from the database
        await cache.set("user:42:profile", profile, ttl=3600)
    assert await cache.get("user:42:profile") == {"name": "Ada"}


async def test_a_set_that_a_change_has_overtaken_stores_nothing(cache: Cache, db: asyncpg.Connection) -> None:
    assert await cache.get("user:42:profile") is None
    old = {"name": await db.fetchval("select name from profiles where id = 42")}
    async with cache.subscribe("user:42:profile") as events:
        await db.execute("update profiles set name = 'Ada Lovelace' where id = 42")
        await anext(events)
    assert await cache.set("user:42:profile", old) is False
    assert await cache.get("user:42:profile") is None


async def test_a_key_that_no_rule_owns_is_simply_stored(cache: Cache, other_instance: Cache) -> None:
    assert await cache.set("user:42:state", {"stage": 3}, ttl=10) is True
    assert await other_instance.get("user:42:state") == {"stage": 3}


async def test_delete_right_after_your_commit_and_read_your_own_write(
    cache: Cache, db: asyncpg.Connection
) -> None:
    async def load_name() -> object:
        return await db.fetchval("select name from profiles where id = 42")

    await cache.get_or_load("user:42:profile", load_name)
    await db.execute("update profiles set name = 'Countess' where id = 42")
    await cache.delete("user:42:profile")  # do not wait for the worker
    assert await cache.get_or_load("user:42:profile", load_name) == "Countess"


async def test_let_another_instance_read_your_write(other_instance: Cache, db: asyncpg.Connection) -> None:
    async def load_name() -> object:
        return await db.fetchval("select name from profiles where id = 42")

    await other_instance.get_or_load("user:42:profile", load_name)
    async with db.transaction():
        await db.execute("update profiles set name = 'Countess' where id = 42")
        token = await db.fetchval("select unstale.token()")
    # Hand the token on, in a header or a job, and wait for it where the value is read.
    await other_instance.wait_for(token)
    assert await other_instance.get_or_load("user:42:profile", load_name) == "Countess"

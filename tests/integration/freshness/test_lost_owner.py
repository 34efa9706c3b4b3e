"""A key that lost its owner, and one that never had one: said once, and not kept for a [ttl] of an hour."""

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from servers import Database, eventually
from unstale.runtime import failpoints
from unstale_worker.leader import rules_transition
from workers import SCHEMA, connected, redis_at, running_worker
from workers.double import attached_cache

OLD = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:settings"]
[ttl]
"user:*" = "1h"
"""
NEW = OLD.replace("{id}:settings", "{id}:prefs")
KEY = "user:3:settings"


async def lives(redis: Redis, key: str) -> float:
    return float(await redis.pttl(key)) / 1000


def warnings(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if word in record.getMessage()]


@pytest.mark.parametrize("how", ["rule", "ttl", "set"])
async def test_a_key_that_lost_its_owner_is_kept_for_detached_ttl(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.WARNING, "unstale")
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, rules=OLD):
            pass
        async with (
            running_worker(database.worker_dsn, redis_url, rules=NEW, former_rules=0),
            attached_cache(redis_url, detached_ttl=20.0) as old,
        ):
            for user in range(3, 6):  # as an agent with the old code does
                key = f"user:{user}:settings"
                if how == "set":
                    assert await old.set(key, 1, ttl=600)
                else:
                    assert await old.get_or_load(key, lambda: 1, ttl=600 if how == "ttl" else None) == 1
                assert 0 < await lives(redis, key) <= 20
            assert await old.get_or_load("user:3:profile", lambda: 1) == 1
            assert await lives(redis, "user:3:profile") > 3000
            assert len(warnings(caplog, "no longer own")) == 1
            assert old.counters().unowned_loads == (0 if how == "set" else 3)
        async with (
            running_worker(database.worker_dsn, redis_url, rules=OLD),
            attached_cache(redis_url) as old,
        ):
            await old.get_or_load(KEY, lambda: 1)
            assert await lives(redis, KEY) > 3000, "owned again"
        await redis.flushdb()


async def test_a_wider_pattern_that_is_left_does_not_cover_it(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``user:*`` matches the key, but no change of a row removes it: neither by a number nor by a text."""
    caplog.set_level(logging.WARNING, "unstale")
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA + "select unstale.watch('public.profiles', '{id,name}');")
        for column in ("id", "name"):
            wide = OLD.replace("user:{id}:profile", f"user:{{{column}}}")
            async with running_worker(database.worker_dsn, redis_url, rules=wide):
                pass
            left = wide.replace(', "user:{id}:settings"', "")
            async with (
                running_worker(database.worker_dsn, redis_url, rules=left, former_rules=0),
                attached_cache(redis_url, detached_ttl=20.0) as old,
            ):
                loads = [await old.get_or_load(KEY, lambda: 1, max_staleness=60.0) for _ in range(2)]
                assert loads == [1, 1]
                assert old.counters().loads == 2, "no bound covers it"
                assert 0 < await lives(redis, KEY) <= 20
                await old.get_or_load("user:3", lambda: 1)
                assert await lives(redis, "user:3") > 3000
            assert len(warnings(caplog, "no longer own")) == 1
            caplog.clear()
            await redis.flushdb()


async def test_an_attached_agent_hears_that_a_key_lost_its_owner(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a near copy, and beside a process that has not heard of it and stores the key for an hour."""
    caplog.set_level(logging.WARNING, "unstale")
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with AsyncExitStack() as stack:
            async with running_worker(database.worker_dsn, redis_url, rules=OLD):
                old = await stack.enter_async_context(attached_cache(redis_url, detached_ttl=1.0))
                assert await old.get_or_load(KEY, lambda: 1) == 1
                assert await lives(redis, KEY) > 3000
                known = old.inspect().rules.hash
            async with running_worker(database.worker_dsn, redis_url, rules=NEW, former_rules=0):
                await eventually(lambda: old.inspect().rules.hash != known and old.attached)
                assert await redis.get(KEY) is None
                assert await old.get_or_load(KEY, lambda: 2) == 2
                assert await lives(redis, KEY) <= 1
                await redis.set(KEY, "3", ex=3600)

                async def seen(value: int) -> bool:
                    return bool(await old.get_or_load(KEY, lambda: 4) == value)

                await eventually(lambda: seen(3), message="the near copy ends")
                await redis.set(KEY, "5", ex=3600)
                await eventually(lambda: seen(5), message="so does one of what another process stored")
        assert len(warnings(caplog, "no longer own")) == 1
        await redis.flushdb()


async def test_a_set_during_the_change_of_rules_leaves_nothing_behind(
    database: Database, redis_url: str
) -> None:
    """By the old rules no rule owns the key. It would be stored at once, also behind the scan of the keys."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, AsyncExitStack() as stack:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, rules=OLD):
            old = await stack.enter_async_context(attached_cache(redis_url, max_silence=60.0))
        with failpoints.armed("applier.after_drop", hold=True) as point:
            new = running_worker(database.worker_dsn, redis_url, rules=NEW, former_rules=0)
            starting = asyncio.ensure_future(stack.enter_async_context(new))
            await point.wait()
            assert not await old.set("user:1:prefs", "computed before the scan")
            point.release()
            await starting
        assert await redis.get("user:1:prefs") is None


async def test_what_an_agent_stored_before_it_heard_of_the_new_rules_goes(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules_transition, "ALL_KNOW_AFTER", 0.5)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, rules=OLD):
            pass
        async with running_worker(database.worker_dsn, redis_url, rules=NEW, former_rules=0):
            await redis.set(KEY, '"kept for an hour"', ex=3600)

            async def gone() -> bool:
                return await redis.get(KEY) is None

            await eventually(gone)


@pytest.mark.parametrize("ttl", [True, False], ids=["under a ttl", "without a ttl"])
async def test_a_typo_is_said_once(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture, ttl: bool
) -> None:
    caplog.set_level(logging.WARNING, "unstale")
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with (
            running_worker(database.worker_dsn, redis_url, rules=OLD if ttl else OLD.partition("[ttl]")[0]),
            attached_cache(redis_url) as cache,
        ):
            for user in range(5, 8):
                await cache.get_or_load(f"user:{user}:profil", lambda: 1)
                await cache.get_or_load(f"user:{user}:mood", lambda: 1)
            assert cache.counters().unowned_loads == 6
        assert len(warnings(caplog, "Did you mean")) == 1
        assert "'user:*:profile'" in warnings(caplog, "Did you mean")[0]
        assert len(warnings(caplog, "profil'")) == 1
        await redis.flushdb()

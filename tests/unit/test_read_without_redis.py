"""Reads where nothing is shared: the near cache is the only tier, and the outbox is what it follows."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from unstale import Cache
from unstale.protocol.messages import PublishedRules, Snapshot
from unstale.runtime import clock

KEY = "user:1:profile"
RULES = PublishedRules("hash", ("user:*:profile",), (("user:*:profile", 60.0),))


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    """A cache without an outbox follower; the test reports what was read."""
    settings: dict[str, Any] = {"redis_enabled": False, "negative_ttl": 5.0, "ttl_jitter": 0.0}
    async with Cache.from_env(env_file=None, **settings) as cache:
        yield cache


def attach(cache: Cache) -> None:
    feed = cache.inspect().feed
    feed.restart(RULES)
    feed.reached(clock.now(), seen=Snapshot(7, 9), lsn="0/2", flushed="0/1", database="1:1")


def seconds_left(cache: Cache) -> float:
    entry = cache.inspect().local.near.peek(KEY)
    assert entry is not None
    return entry.expires - clock.now()


async def test_a_load_that_ends_attached_is_kept_also_if_it_began_detached(cache: Cache) -> None:
    """Changes after the snapshot are received; earlier ones are loaded."""
    feed = cache.inspect().feed
    feed.restart(RULES)

    async def load() -> int:
        feed.reached(clock.now(), seen=Snapshot(7, 9), lsn="0/2", flushed="0/1", database="1:1")
        return 1

    assert not cache.attached
    assert await cache.get_or_load(KEY, load) == 1
    assert cache.attached
    assert await cache.get_or_load(KEY, lambda: 2) == 1


async def test_a_load_that_a_restart_overtakes_is_not_kept(cache: Cache) -> None:
    async def load() -> int:
        attach(cache)
        return 1

    assert await cache.get_or_load(KEY, load) == 1
    assert await cache.get_or_load(KEY, lambda: 2) == 2


async def test_negative_ttl_of_a_read_overrides_the_settings(cache: Cache) -> None:
    attach(cache)
    assert await cache.get_or_load(KEY, lambda: None) is None
    assert 4 < seconds_left(cache) <= 5
    assert await cache.get_or_load(KEY, lambda: None, fresh=True, negative_ttl=30) is None
    assert 29 < seconds_left(cache) <= 30
    assert await cache.get_or_load(KEY, lambda: None, fresh=True, negative_ttl=1) is None
    assert 0 < seconds_left(cache) <= 1


async def test_a_fresh_read_replaces_what_is_held(cache: Cache) -> None:
    for attached in (False, True):
        if attached:
            attach(cache)
        assert await cache.get_or_load(KEY, lambda: "old") == "old"
        assert await cache.get_or_load(KEY, lambda: "new", fresh=True) == "new"
        assert await cache.get_or_load(KEY, lambda: "unused") == "new"


async def test_closing_ends_a_load_that_has_not_begun(cache: Cache) -> None:
    read = asyncio.create_task(cache.get_or_load(KEY, lambda: 1))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cache.close()
        await asyncio.wait([read])

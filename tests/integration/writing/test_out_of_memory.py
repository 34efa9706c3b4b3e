"""A Redis that is full and evicts nothing: nothing is stored any more, and every invalidation still works."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from unstale import Cache
from unstale.protocol.codec import lease
from unstale_worker.refresh.redis.leases import Leases, Value
from workers.double import NAMES, RULES, WorkerDouble

SPARE = 4 * 1024 * 1024
SLACK = 1024 * 1024
"""Bytes that buffers and one last value may take beyond the limit."""
VALUE = "x" * 50_000
TIMES = 400  # five times what is spare

Store = Callable[[Cache, int], Awaitable[object]]


@pytest.fixture
async def full(double: WorkerDouble, cache: Cache) -> AsyncIterator[WorkerDouble]:
    """A worker on a Redis that takes a few more MB, and evicts nothing."""
    await cache.get_or_load("user:0:profile", lambda: "old")
    used: Any = await double.redis.info("memory")
    await double.redis.config_set("maxmemory-policy", "noeviction")
    await double.redis.config_set("maxmemory", used["used_memory"] + SPARE)
    yield double
    await double.redis.config_set("maxmemory", 0)


async def set_free(cache: Cache, number: int) -> object:
    return await cache.set(f"free:{number}", VALUE, ttl=600)


async def get_load_set(cache: Cache, number: int) -> object:
    await cache.get(f"user:{number}:profile")
    return await cache.set(f"user:{number}:profile", VALUE)


async def load(cache: Cache, number: int) -> object:
    assert await cache.get_or_load(f"user:{number}:profile", lambda: VALUE) == VALUE
    return False


async def load_afresh(cache: Cache, number: int) -> object:
    assert await cache.get_or_load(f"user:{number}:profile", lambda: VALUE, fresh=True) == VALUE
    return False


async def load_many(cache: Cache, number: int) -> object:
    keys = [f"user:{number}{letter}:profile" for letter in "ab"]
    assert await cache.get_many(keys, lambda missing: dict.fromkeys(missing, VALUE))
    return False


async def refresh(cache: Cache, number: int) -> object:
    """Store as a worker that refreshes does."""
    tier: Any = cache.inspect().tier
    leases = Leases(tier.multiplexer, NAMES, lease_ttl=3.0, rules=RULES.hash)
    mine, key = lease(f"{number}"), f"user:{number}:profile"
    try:
        await tier.multiplexer.execute_command("SET", key, mine, "PX", 600_000)
        return bool(await leases.fill([Value(key, VALUE.encode(), 600.0)], mine, again=0.0))
    except Exception:
        return False


@pytest.mark.parametrize(
    "store", [set_free, get_load_set, load, load_afresh, load_many, refresh], ids=lambda f: f.__name__
)
async def test_it_never_grows_past_its_limit(full: WorkerDouble, cache: Cache, store: Store) -> None:
    stored = [await store(cache, number) for number in range(1, TIMES)]
    assert not stored[-1]
    info: Any = await full.redis.info("memory")
    assert info["used_memory"] <= info["maxmemory"] + SLACK

    # Invalidations of every kind still work, in Redis and here.
    await full.apply("user:0:profile")
    assert await full.redis.get("user:0:profile") is None
    await cache.delete("user:1:profile", "free:1")
    assert await full.redis.mget("user:1:profile", "free:1") == [None, None]
    await cache.invalidate_pattern("user:*")
    assert not [key async for key in full.redis.scan_iter("user:*")]


async def test_what_cannot_be_stored_leaves_nothing_older(full: WorkerDouble, cache: Cache) -> None:
    """A set, or a fresh read, that stores nothing, removes what is older."""
    assert await cache.set("free:old", "old", ttl=600)
    await full.redis.config_set("maxmemory", 1)
    assert not await cache.set("free:old", "new", ttl=600)
    assert await cache.get("free:old") is None
    assert await cache.get_or_load("user:0:profile", lambda: "new", fresh=True) == "new"
    assert await cache.get_or_load("user:0:profile", lambda: "newest") == "newest"

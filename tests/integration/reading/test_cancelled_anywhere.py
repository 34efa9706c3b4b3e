"""A call that is cancelled at any of its steps leaves nothing that the next reader waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest

from servers import eventually
from unstale import Cache
from unstale.protocol.codec import is_lease, is_soft_lease
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, attached_cache

STEPS = range(0, 320, 4)
"""Turns of the event loop before the cancellation; a round trip to Redis takes some dozens."""
Call = Callable[[Cache, str], Awaitable[Any]]


async def loader() -> str:
    await asyncio.sleep(0)
    return "value"


async def get_or_load(cache: Cache, key: str) -> Any:
    return await cache.get_or_load(key, loader)


async def two_readers(cache: Cache, key: str) -> Any:
    return await asyncio.gather(cache.get_or_load(key, loader), cache.get_or_load(key, loader, ttl=5))


async def fresh(cache: Cache, key: str) -> Any:
    return await cache.get_or_load(key, loader, fresh=True)


async def get_set(cache: Cache, key: str) -> Any:
    if await cache.get(key) is None:
        await cache.set(key, await loader())


async def get_load(cache: Cache, key: str) -> Any:
    await cache.get(key)
    return await cache.get_or_load(key, loader)


async def get_many(cache: Cache, key: str) -> Any:
    async def load(keys: list[str]) -> dict[str, str]:
        return dict.fromkeys(keys, await loader())

    return await cache.get_many([key, f"{key}2:profile", f"{key}3:profile"], load)


async def cached(cache: Cache, key: str) -> Any:
    @cache.cached(key)
    async def function() -> str:
        return await loader()

    return await function()


async def early(cache: Cache, key: str) -> Any:
    await cache.get_or_load(key, loader, ttl=0.001, refresh_ahead=0.9)
    return await cache.get_or_load(key, loader, refresh_ahead=0.9)


async def set_free(cache: Cache, key: str) -> Any:
    return await cache.set("free:" + key, "value", ttl=60)


async def delete(cache: Cache, key: str) -> Any:
    await cache.get_or_load(key, loader)
    await cache.delete(key)
    return await cache.get_or_load(key, loader)


@pytest.mark.parametrize(
    "call",
    [get_or_load, two_readers, fresh, get_set, get_load, get_many, cached, early, set_free, delete],
    ids=lambda call: call.__name__,
)
async def test_nothing_is_left_in_the_way(valkey: EmbeddedValkey, double: WorkerDouble, call: Call) -> None:
    async with attached_cache(valkey.url, lease_ttl=600) as cache:
        await call(cache, "user:0:profile")  # the scripts are known
        cancelled, users = 0, count(1)
        while cancelled <= 5:  # where other work keeps this process waiting, a call ends after few turns
            for steps in STEPS:
                key = f"user:{next(users)}:profile"
                task = asyncio.ensure_future(call(cache, key))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                cancelled += task.cancelled()

        async def free() -> bool:
            keys = [key async for key in double.redis.scan_iter("user:*")]
            found: Any = await double.redis.mget(keys) if keys else []
            return not any(value and is_lease(value) and not is_soft_lease(value) for value in found)

        await eventually(free, timeout=60, message="every lease was given up")
        await eventually(lambda: not cache.inspect().path.flights)
        async with asyncio.timeout(60):
            for user in range(1, next(users)):
                assert await cache.get_or_load(f"user:{user}:profile", loader) == "value"

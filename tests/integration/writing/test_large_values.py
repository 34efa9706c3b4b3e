"""A large value is stored, and warned of once for each kind of key."""

from collections.abc import Awaitable, Callable

import pytest

from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, attached_cache

LARGE = "x" * 1_100_000


async def load(cache: Cache, key: str) -> object:
    return await cache.get_or_load(key, lambda: LARGE)


async def load_many(cache: Cache, key: str) -> object:
    return await cache.get_many([key], lambda keys: dict.fromkeys(keys, LARGE))


async def store(cache: Cache, key: str) -> object:
    await cache.get(key)
    return await cache.set(key, LARGE)


@pytest.mark.parametrize("write", [load, load_many, store], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", ["user:{}:profile", "session:{}"])
async def test_it_is_warned_of_once(
    cache: Cache,
    caplog: pytest.LogCaptureFixture,
    write: Callable[[Cache, str], Awaitable[object]],
    shape: str,
) -> None:
    for number in range(3):
        await write(cache, shape.format(number))
    assert caplog.text.count("large value") == 1
    assert f"{shape.format(0)!r} has 1.1 MB" in caplog.text


async def test_the_limit_is_a_setting(
    valkey: EmbeddedValkey, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with attached_cache(valkey.url, large_value=0) as cache:
        await load(cache, "user:1:profile")
    assert "large value" not in caplog.text
    async with attached_cache(valkey.url, large_value=10) as cache:
        await cache.get_or_load("user:2:profile", lambda: "x" * 20)
    assert "large value" in caplog.text

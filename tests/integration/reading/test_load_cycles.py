"""Loaders that read a key whose load waits for them: an error that names the keys, and no hang."""

import asyncio
import contextvars
from typing import Any

import pytest

from servers import PATIENCE
from unstale import Cache, LoadCycle

A, B, C = (f"user:{number}:profile" for number in (1, 2, 3))


async def ended(*calls: Any) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*calls, return_exceptions=True)


def reading(cache: Cache, *keys: str) -> Any:
    """Return a loader that reads these keys with loaders of their own."""

    async def load() -> str:
        for key in keys:
            await cache.get_or_load(key, LOADERS[key])
        return "value"

    return load


LOADERS: dict[str, Any] = {}


async def test_its_own_key(cache: Cache) -> None:
    LOADERS[A] = reading(cache, A)
    (error,) = await ended(cache.get_or_load(A, LOADERS[A]))
    assert isinstance(error, LoadCycle)
    assert error.keys == (A, A)
    assert repr(A) in str(error)
    assert await cache.get_or_load(A, lambda: "value") == "value"  # nothing is left in the way


async def test_its_own_key_afresh(cache: Cache) -> None:
    async def load() -> Any:
        return await cache.get_or_load(A, load, fresh=True)

    (error,) = await ended(cache.get_or_load(A, load))
    assert isinstance(error, LoadCycle)


async def test_its_own_key_after_an_invalidation(cache: Cache) -> None:
    async def load() -> Any:
        await cache.delete(A)
        return await cache.get_or_load(A, load)

    (error,) = await ended(cache.get_or_load(A, load))
    assert isinstance(error, LoadCycle)


async def test_a_ring_of_three(cache: Cache) -> None:
    LOADERS.update({A: reading(cache, B), B: reading(cache, C), C: reading(cache, A)})
    (error,) = await ended(cache.get_or_load(A, LOADERS[A]))
    assert isinstance(error, LoadCycle)
    assert error.keys == (C, A, B, C)


async def test_two_tasks_that_meet(cache: Cache) -> None:
    """Neither caller began the other's load."""
    both = asyncio.Event()
    begun = 0

    def load(other: str) -> Any:
        async def loader() -> Any:
            nonlocal begun
            begun += 1
            if begun == 2:
                both.set()
            await both.wait()
            return await cache.get_or_load(other, lambda: "unused")

        return loader

    results = await ended(cache.get_or_load(A, load(B)), cache.get_or_load(B, load(A)))
    assert all(isinstance(result, LoadCycle) for result in results)


async def test_tasks_of_a_loader(cache: Cache) -> None:
    async def load() -> Any:
        return await asyncio.gather(cache.get_or_load(B, lambda: 1), cache.get_or_load(A, lambda: 1))

    (error,) = await ended(cache.get_or_load(A, load))
    assert isinstance(error, LoadCycle)


async def test_a_cached_function_that_calls_itself(cache: Cache) -> None:
    @cache.cached("user:{number}:profile")
    async def function(number: int) -> int:
        return await function(number)

    (error,) = await ended(function(1))
    assert isinstance(error, LoadCycle)

    @cache.cached("user:{number}:settings")
    async def fibonacci(number: int) -> int:
        return number if number < 2 else await fibonacci(number - 1) + await fibonacci(number - 2)

    assert await ended(fibonacci(20)) == [6765]


@pytest.mark.parametrize("key", [A, B])
async def test_a_loader_of_many_that_reads_one_of_them(cache: Cache, key: str) -> None:
    async def load(keys: list[str]) -> dict[str, Any]:
        return dict.fromkeys(keys, await cache.get_or_load(key, lambda: 1))

    (error,) = await ended(cache.get_many([A, B], load))
    assert isinstance(error, LoadCycle)


async def test_a_loader_that_reads_many_with_its_own(cache: Cache) -> None:
    async def load() -> Any:
        return await cache.get_many([B, A], lambda keys: dict.fromkeys(keys, 1))

    (error,) = await ended(cache.get_or_load(A, load))
    assert isinstance(error, LoadCycle)


async def test_while_detached_too(cache: Cache) -> None:
    cache.inspect().freshness.doubted()
    LOADERS[A] = reading(cache, A)
    (error,) = await ended(cache.get_or_load(A, LOADERS[A]))
    assert isinstance(error, LoadCycle)


async def test_what_waits_for_nothing_is_no_cycle(cache: Cache) -> None:
    """A loader that reads other keys, a deep chain, and a task that it does not wait for."""
    tasks: list[asyncio.Task[Any]] = []

    async def load() -> Any:
        read = cache.get_or_load(A, lambda: "unused")
        tasks.append(asyncio.create_task(read, context=contextvars.Context()))
        await asyncio.sleep(0.01)
        return "value"

    assert await ended(cache.get_or_load(A, load)) == ["value"]
    assert await ended(*tasks) == ["value"]

    async def deep(number: int) -> int:
        return number and await cache.get_or_load(f"user:{number}:settings", lambda: deep(number - 1)) + 1

    assert await ended(deep(200)) == [200]
    results = await ended(*(cache.get_or_load(C, lambda: cache.get_or_load(B, lambda: 1)) for _ in range(9)))
    assert results == [1] * 9

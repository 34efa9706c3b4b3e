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


async def by_gather(read: Any) -> None:
    await asyncio.gather(asyncio.sleep(0), read)


async def by_a_group(read: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(read)


async def by_wait(read: Any) -> None:
    await asyncio.wait([asyncio.create_task(asyncio.wait_for(read, 60))])


async def by_completion(read: Any) -> None:
    for first in asyncio.as_completed([asyncio.shield(asyncio.create_task(read))]):
        await first


async def later(read: Any) -> None:
    """It waits for the task only after that waits for it."""
    task = asyncio.create_task(read)
    await asyncio.sleep(0.01)
    await task


@pytest.mark.parametrize("waiting", [by_gather, by_a_group, by_wait, by_completion, later])
async def test_a_task_that_the_loader_waits_for_belongs_to_it(cache: Cache, waiting: Any) -> None:
    errors: list[BaseException] = []

    async def read() -> Any:
        try:
            await cache.get_or_load(A, lambda: "unused")
        except LoadCycle as error:
            errors.append(error)
            raise

    await ended(cache.get_or_load(A, lambda: waiting(read())))
    assert [type(error) for error in errors] == [LoadCycle]


async def test_a_task_in_the_background_may_wait_for_the_loader_that_began_it(cache: Cache) -> None:
    """Also through another key, and one that it has in common with a read that has nothing to do with it."""
    tasks: list[asyncio.Task[Any]] = []

    async def load() -> Any:
        for read in (
            cache.get_or_load(A, lambda: "unused"),
            cache.get_or_load(B, lambda: cache.get_or_load(A, lambda: "unused")),
            cache.get_many([A, C], lambda keys: dict.fromkeys(keys, "many")),
        ):
            task = asyncio.create_task(read)
            tasks.append(task)
            task.add_done_callback(lambda task: task.exception())
        await asyncio.sleep(0.01)
        return "value"

    assert await ended(cache.get_or_load(A, load), cache.get_or_load(B, load)) == ["value", "value"]
    assert await ended(*tasks) == ["value", "value", {A: "value", C: "many"}] * 2


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

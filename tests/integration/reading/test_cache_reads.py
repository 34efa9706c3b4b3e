"""`get_or_load` through both tiers of a real Valkey, with the worker's own scripts played one at a time."""

import asyncio

import orjson

from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY = "user:42:profile"


async def test_a_value_is_loaded_once_then_comes_from_memory(cache: Cache) -> None:
    loader = Loader({"name": "Ada"})
    for _ in range(3):
        assert await cache.get_or_load(KEY, loader) == {"name": "Ada"}
    assert loader.calls == 1
    assert cache.counters().near_hits == 2
    assert cache.counters().fills == 1


async def test_another_instance_reads_it_from_redis(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    await cache.get_or_load(KEY, Loader({"name": "Ada"}))
    async with attached_cache(valkey.url) as other:
        unused = Loader({"name": "wrong"})
        assert await other.get_or_load(KEY, unused) == {"name": "Ada"}
        assert unused.calls == 0
        assert other.counters().redis_hits == 1
    assert orjson.loads(await double.redis.get(KEY) or b"") == {"name": "Ada"}


async def test_an_invalidation_reaches_memory_and_redis(cache: Cache, double: WorkerDouble) -> None:
    loader = Loader(1)
    assert await cache.get_or_load(KEY, loader) == 1
    loader.value = 2
    async with cache.subscribe(KEY) as events:
        await double.apply(KEY)
        await anext(events)
    assert await cache.get_or_load(KEY, loader) == 2


async def test_callers_get_copies_of_their_own(cache: Cache) -> None:
    first = await cache.get_or_load(KEY, lambda: {"tags": ["a"]})
    first["tags"].append("b")
    assert await cache.get_or_load(KEY, lambda: None) == {"tags": ["a"]}


async def test_500_readers_of_one_missing_key_in_two_instances_cause_one_load(
    cache: Cache, valkey: EmbeddedValkey
) -> None:
    loader = Loader("value")
    loader.gate.clear()
    async with attached_cache(valkey.url) as other:
        reads = [
            asyncio.create_task(each.get_or_load(KEY, loader)) for each in (cache, other) for _ in range(250)
        ]
        await loader.entered.wait()
        loader.gate.set()
        assert set(await asyncio.gather(*reads)) == {"value"}
    assert loader.calls == 1

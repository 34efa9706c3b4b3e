"""A cache's life: start, close, forgotten close, wrong loop, shared objects, models, statistics."""

import asyncio
import gc
import warnings

import orjson
import pytest
from pydantic import BaseModel

from unstale import Cache, CacheClosed, CacheNotStarted, FrozenDict
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache, open_cache

KEY = "user:42:profile"


class Profile(BaseModel):
    name: str
    stage: int = 0


async def test_start_and_close_tolerate_everything(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    cache = Cache.from_env(env_file=None, redis_url=valkey.url)
    with pytest.raises(CacheNotStarted, match=r"`async with cache`.*`await cache.start\(\)`"):
        await cache.get(KEY)
    await cache.start()
    await cache.start()
    await cache.close()
    await cache.close()
    for use in (cache.get(KEY), cache.set(KEY, 1), cache.delete(KEY), cache.wait_for("1:1:1")):
        with pytest.raises(CacheClosed, match="open it again"):
            await use
    never_started = Cache.from_env(env_file=None, redis_url=valkey.url)
    await never_started.close()


async def test_closing_in_the_middle_of_a_load_tells_who_waits(cache: Cache, double: WorkerDouble) -> None:
    loader = Loader()
    loader.gate.clear()
    read = asyncio.create_task(cache.get_or_load(KEY, loader))
    await loader.entered.wait()
    await cache.close()
    with pytest.raises(CacheClosed):
        await read
    assert await double.redis.get(KEY) is None


async def test_closing_ends_subscriptions(cache: Cache) -> None:
    async with cache.subscribe("*") as events:
        await cache.close()
        assert [event async for event in events] == []


def test_a_forgotten_close_warns(valkey: EmbeddedValkey) -> None:
    async def forget() -> None:
        cache = Cache.from_env(env_file=None, redis_url=valkey.url)
        await cache.start()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(forget())
        gc.collect()
    assert any("unclosed <Cache" in str(warning.message) for warning in caught)


def test_another_event_loop_is_refused(valkey: EmbeddedValkey) -> None:
    cache = Cache.from_env(env_file=None, redis_enabled=False)
    asyncio.run(_started(cache))
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(_read(cache))
    asyncio.run(cache.close())


async def _started(cache: Cache) -> None:
    await cache.start()


async def _read(cache: Cache) -> None:
    await cache.get(KEY)


async def test_a_shared_value_is_one_object_that_nobody_can_change(cache: Cache) -> None:
    first = await cache.get_or_load(KEY, Loader({"tags": ["a"]}), shared=True)
    second = await cache.get_or_load(KEY, Loader(), shared=True)
    third = await cache.get(KEY, shared=True)
    assert first is second is third
    assert isinstance(first, FrozenDict)
    assert first == {"tags": ("a",)}
    with pytest.raises(TypeError):
        first["tags"] = []
    assert orjson.dumps(first) == b'{"tags":["a"]}'


async def test_an_invalidated_shared_value_is_replaced(cache: Cache) -> None:
    loader = Loader([1])
    assert await cache.get_or_load(KEY, loader, shared=True) == (1,)
    loader.value = [2]
    await cache.delete(KEY)
    assert await cache.get_or_load(KEY, loader, shared=True) == (2,)


async def test_shared_and_model_exclude_each_other(cache: Cache) -> None:
    with pytest.raises(TypeError, match="cannot be combined with model="):
        await cache.get_or_load(KEY, Loader(), shared=True, model=Profile)


async def test_models_come_from_every_tier(cache: Cache, valkey: EmbeddedValkey) -> None:
    ada = Profile(name="Ada", stage=3)
    for _ in range(2):  # loaded, then from memory
        assert await cache.get_or_load(KEY, Loader(ada), model=Profile) == ada
    assert await cache.get(KEY, model=Profile) == ada
    assert await cache.get(KEY) == {"name": "Ada", "stage": 3}
    async with attached_cache(valkey.url) as other:
        assert await other.get(KEY, model=Profile) == ada


async def test_a_loader_whose_value_does_not_fit_the_model_is_told(cache: Cache) -> None:
    with pytest.raises(ValueError, match="name"):
        await cache.get_or_load(KEY, Loader({"nome": "Ada"}), model=Profile)


@pytest.mark.parametrize("key", ["", "{unstale:0}:state", "x" * 1_025, "\ud800"])
async def test_unusable_keys_are_refused_everywhere(cache: Cache, key: str) -> None:
    for use in (
        cache.get(key),
        cache.get_or_load(key, Loader()),
        cache.set(key, 1),
        cache.delete("fine", key),
    ):
        with pytest.raises(ValueError, match="cache key"):
            await use


async def test_statistics_have_the_seeds_fields_and_count(cache: Cache, double: WorkerDouble) -> None:
    await cache.get_or_load(KEY, Loader(1))
    for _ in range(3):
        await cache.get(KEY)
    stats = await cache.get_stats()
    assert {
        "enabled",
        "connected",
        "hit_rate",
        "cache_hits",
        "cache_misses",
        "redis_memory",
        "status",
    } <= set(stats)
    assert stats["hit_rate"] == 0.75
    assert (stats["cache_hits"], stats["cache_misses"], stats["near_hits"], stats["loads"]) == (3, 1, 3, 1)
    assert (stats["status"], stats["attached"], stats["epoch"]) == ("healthy", True, double.epoch)
    assert orjson.loads(orjson.dumps(stats)) == stats


async def test_the_near_cache_is_bounded(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    async with attached_cache(valkey.url, near_max_entries=10) as cache:
        for number in range(30):
            await cache.get_or_load(f"user:{number}:profile", Loader(number))
        counters = cache.counters()
        assert (counters.near_entries, counters.evictions) == (10, 20)


async def test_what_is_shown_of_a_cache_holds_no_secret(valkey: EmbeddedValkey) -> None:
    async with open_cache("redis://:hunter2@127.0.0.1:1/0") as cache:
        assert repr(cache) == "<Cache {unstale:0} detached, 0 near entries>"
        assert (
            "hunter2"
            not in f"{cache!r} {cache.inspect().tier!r} {cache.inspect().following!r} {cache.settings!r}"
        )
    assert "closed" in repr(cache)

"""`cache.get_many`: one trip to Redis, one call of the loader, and the same protocol for each key."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from servers import eventually
from unstale import Cache
from unstale.redis_tier.tier import RedisTier
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEYS = [f"user:{n}:profile" for n in range(50)]


class Profile(BaseModel):
    n: int


class Bulk:
    """A loader that notes what it was asked for; ``gate`` holds it."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.value = 0

    async def __call__(self, keys: list[str]) -> Mapping[str, object]:
        self.calls.append(keys)
        value = self.value
        await self.gate.wait()
        return {key: {"n": value} for key in keys}


async def test_what_is_missing_is_loaded_by_one_call(cache: Cache, valkey: EmbeddedValkey) -> None:
    bulk = Bulk()
    await cache.get_or_load(KEYS[0], lambda: {"n": -1})
    async with attached_cache(valkey.url) as other:
        await other.get_or_load(KEYS[1], lambda: {"n": -2})
        found = await cache.get_many(reversed(KEYS), bulk)
        assert list(found) == list(reversed(KEYS))
        assert found[KEYS[0]] == {"n": -1}
        assert found[KEYS[1]] == {"n": -2}
        assert {key for call in bulk.calls for key in call} == set(KEYS[2:])
        assert len(bulk.calls) <= 2
        # All of it is cached now, here and for others.
        assert await other.get_many(KEYS, bulk) == {key: found[key] for key in KEYS}
        assert await cache.get_many(KEYS) == {key: found[key] for key in KEYS}
    assert {key for call in bulk.calls for key in call} == set(KEYS[2:])
    assert cache.counters().fills == len(KEYS) - 1


async def test_without_a_loader_only_what_is_cached_comes_back(cache: Cache, double: WorkerDouble) -> None:
    await cache.get_or_load(KEYS[0], lambda: {"n": 1})
    await cache.get_or_load(KEYS[1], lambda: None)
    await double.redis.set(KEYS[2], b'{"n":"no number"}', ex=60)
    assert await cache.get_many(KEYS[:2]) == {KEYS[0]: {"n": 1}, KEYS[1]: None}
    assert await cache.get_many(KEYS[:3], model=Profile) == {KEYS[0]: Profile(n=1), KEYS[1]: None}
    assert await cache.get_many([]) == {}


async def test_a_key_that_the_loader_leaves_out_was_not_found(cache: Cache) -> None:
    found = await cache.get_many(KEYS[:2], lambda keys: {KEYS[1]: {"n": 1}}, model=Profile)
    assert found == {KEYS[0]: None, KEYS[1]: Profile(n=1)}


async def test_an_invalidation_meanwhile_refuses_that_fill_alone(cache: Cache, double: WorkerDouble) -> None:
    bulk = Bulk()
    bulk.gate.clear()
    reading = asyncio.create_task(cache.get_many(KEYS[:3], bulk))
    await eventually(lambda: bulk.calls)
    await double.apply(KEYS[1])
    bulk.value = 1
    bulk.gate.set()
    await reading
    assert await double.redis.exists(*KEYS[:3]) == 2
    assert (await cache.get_many(KEYS[:3], bulk))[KEYS[1]] == {"n": 1}


async def test_a_key_that_another_loads_does_not_hold_the_others_up(
    cache: Cache, valkey: EmbeddedValkey
) -> None:
    slow, bulk = Loader({"n": 9}), Bulk()
    slow.gate.clear()
    async with attached_cache(valkey.url) as other:
        loading = asyncio.create_task(other.get_or_load(KEYS[0], slow))
        await slow.entered.wait()
        reading = asyncio.create_task(cache.get_many(KEYS[:3], bulk))
        await eventually(lambda: bulk.calls)
        assert set(bulk.calls[0]) == set(KEYS[1:3])
        slow.gate.set()
        assert (await reading)[KEYS[0]] == {"n": 9}
        await loading


async def test_what_the_loader_raises_is_raised_and_leaves_no_lease(
    cache: Cache, double: WorkerDouble
) -> None:
    def fails(keys: list[str]) -> Mapping[str, object]:
        raise LookupError("no database")

    with pytest.raises(LookupError, match="no database"):
        await cache.get_many(KEYS[:3], fails)
    assert await double.redis.exists(*KEYS[:3]) == 0
    with pytest.raises(TypeError, match="returned a list"):
        await cache.get_many(KEYS[:3], lambda keys: [])  # type: ignore[arg-type,return-value]


async def test_a_caller_that_is_cancelled_ends_its_call(cache: Cache, double: WorkerDouble) -> None:
    bulk = Bulk()
    bulk.gate.clear()
    reading = asyncio.create_task(cache.get_many(KEYS[:3], bulk))
    await eventually(lambda: bulk.calls)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    async def released() -> bool:
        return await double.redis.exists(*KEYS[:3]) == 0

    await eventually(released)


LARGE = {f"user:{number}:profile": f"{number}" * 500_000 for number in range(10, 50)}  # 1 MB each


PATIENT: dict[str, Any] = {"redis_timeout": 30.0, "max_silence": 60.0}
"""Settings for 40 MB on a busy machine: the number of batches is the subject, not their time."""


async def test_large_values_come_in_several_replies(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    """One reply with all of them would keep Redis from the worker, and take longer than the time limit."""
    async with attached_cache(valkey.url, **PATIENT) as cache:
        loaded = await cache.get_many(LARGE, lambda keys: {key: LARGE[key] for key in keys})
        assert loaded == LARGE
        assert cache.counters().fills == len(LARGE)
    bulk = Bulk()
    free = {"free:" + key: value for key, value in LARGE.items()}
    for key, value in free.items():
        await double.redis.set(key, orjson.dumps(value), ex=600)
    async with attached_cache(valkey.url, near_max_bytes=0, **PATIENT) as other:
        tier = other.inspect().tier
        assert isinstance(tier, RedisTier)
        for keys, loader in ((LARGE, bulk), (LARGE, None), (free, bulk), (free, None)):
            for _ in range(2):  # without and with the scripts in the server
                await double.redis.script_flush()
                for _ in range(2):
                    before = tier.multiplexer.batches
                    assert await other.get_many(keys, loader) == keys
                    if loader is not None or keys is LARGE:
                        assert tier.multiplexer.batches - before >= 4
    assert bulk.calls == []


async def test_large_values_are_stored_in_several_requests(
    valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    async with attached_cache(valkey.url, **PATIENT) as cache:
        tier = cache.inspect().tier
        assert isinstance(tier, RedisTier)
        before = tier.multiplexer.batches
        await asyncio.gather(*(cache.set("free:" + key, value, ttl=600) for key, value in LARGE.items()))
        assert tier.multiplexer.batches - before >= 8
        assert await cache.get("free:user:10:profile") == LARGE["user:10:profile"]

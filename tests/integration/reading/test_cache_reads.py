"""`get_or_load` through both tiers of a real Valkey, with the worker's own scripts played one at a time."""

import asyncio
from typing import Any

import orjson
import pytest

from servers import eventually
from unstale import Cache
from unstale.protocol.codec import is_lease
from unstale.protocol.names import LEASE
from unstale.reading.result import ReadResult
from unstale.redis_tier.tier import RedisTier
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


async def test_a_missing_key_gives_the_default_and_a_cached_none_does_not(cache: Cache) -> None:
    missing = object()
    assert await cache.get("user:42:profile", default=missing) is missing
    assert await cache.get_or_load("user:42:profile", lambda: None) is None
    assert await cache.get("user:42:profile", default=missing) is None
    assert await cache.get("user:42:profile", default=missing, fresh=True) is missing


async def test_a_full_miss_asks_redis_twice(cache: Cache) -> None:
    """Once for value or lease, once for the fill; a hit asks once."""
    tier = cache.inspect().tier
    assert isinstance(tier, RedisTier)
    await cache.get_or_load("user:1:profile", lambda: 1)
    batches = tier.multiplexer.batches
    assert await cache.get_or_load("user:42:profile", lambda: 1) == 1
    assert tier.multiplexer.batches - batches == 2
    cache.inspect().local.near.clear()
    batches = tier.multiplexer.batches
    assert await cache.get_or_load("user:42:profile", lambda: 2) == 1
    assert tier.multiplexer.batches - batches == 1
    batches = tier.multiplexer.batches
    keys = [f"user:{number}:settings" for number in range(100)]
    await cache.get_many(keys, lambda missing: dict.fromkeys(missing, 1))
    assert tier.multiplexer.batches - batches <= 3  # one for all leases; fills need not meet in one batch


@pytest.mark.parametrize("stands", ["a value", "nothing", "another's lease"])
async def test_what_a_fresh_read_loaded_is_stored(cache: Cache, double: WorkerDouble, stands: str) -> None:
    """The next plain read is not older, here and in every other instance."""
    key = "user:42:profile"
    if stands == "a value":
        assert await cache.get_or_load(key, lambda: "old") == "old"
    elif stands == "another's lease":
        await double.redis.set(key, LEASE + b"of another process", px=60_000)
    assert await cache.get_or_load(key, lambda: "new", fresh=True) == "new"
    assert await double.redis.get(key) == b'"new"'
    assert await cache.get_or_load(key, lambda: "unused") == "new"
    assert await cache.get(key) == "new"


async def test_a_fresh_read_overtaken_by_an_invalidation_is_not_stored(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    key, loader = "user:42:profile", Loader("overtaken")
    assert await cache.get_or_load(key, lambda: "old") == "old"
    loader.gate.clear()
    read = asyncio.create_task(cache.get_or_load(key, loader, fresh=True))
    await loader.entered.wait()
    assert await cache.get(key) == "old"  # the value that stands stays readable meanwhile
    async with cache.subscribe(key) as events:
        await double.apply(key)
        await anext(events)
    async with attached_cache(valkey.url) as other:
        assert await other.get_or_load(key, lambda: "old") == "old"  # the same bytes again
    loader.gate.set()
    assert await read == "overtaken"
    assert await double.redis.get(key) == b'"old"'


async def test_after_a_fresh_read_nothing_older_is_read_also_if_it_could_not_be_stored(
    cache: Cache, double: WorkerDouble
) -> None:
    """The value that it was to replace has expired in Redis meanwhile; the near copy of it would live on."""
    await cache.get_or_load(KEY, Loader("old"))
    fresh = Loader("new")
    fresh.gate.clear()
    reading = asyncio.create_task(cache.get_or_load(KEY, fresh, fresh=True))
    await fresh.entered.wait()
    await double.redis.unlink(KEY)
    fresh.gate.set()
    assert await reading == "new"
    assert await cache.get_or_load(KEY, Loader("newer")) == "newer"


async def test_a_lease_that_is_not_used_is_given_up(
    cache: Cache, double: WorkerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost between the reply and the load: other instances need not wait for the lease."""
    parts = cache.inspect()
    join = parts.path.flights.join

    async def doubting(*args: Any, **more: Any) -> ReadResult:
        asyncio.get_running_loop().call_soon(parts.freshness.doubted)
        return await join(*args, **more)

    monkeypatch.setattr(parts.path.flights, "join", doubting)
    assert await cache.get_or_load(KEY, Loader(1)) == 1
    assert await double.redis.get(KEY) is None


async def test_a_cancelled_reader_leaves_no_lease_behind(cache: Cache, double: WorkerDouble) -> None:
    """Neither before its batch was answered, nor between the answer and its next step."""
    for steps in range(6):
        key = f"user:{steps}:profile"
        read = asyncio.create_task(cache.get_or_load(key, Loader("unused")))
        for _ in range(steps):
            await asyncio.sleep(0)
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)

        async def free(key: str = key) -> bool:
            found = await double.redis.get(key)
            return not (isinstance(found, bytes) and is_lease(found))

        await eventually(free)


async def test_a_model_may_be_any_type(cache: Cache) -> None:
    assert await cache.get_or_load("user:1:profile", lambda: [1, 2], model=list[int]) == [1, 2]
    with pytest.raises(ValueError, match="valid integer"):
        await cache.get_or_load("user:2:profile", lambda: "x", model=int)


async def test_a_misfit_is_replaced_also_while_another_instance_replaces_it(
    cache: Cache, valkey: EmbeddedValkey
) -> None:
    """The near copy is without the other's lease, so the value in Redis is not the one that was read."""
    await cache.get_or_load(KEY, Loader({"name": "Ada"}))
    slow = Loader({"name": "Ada"})
    slow.gate.clear()
    async with attached_cache(valkey.url) as other:
        reading = asyncio.create_task(other.get_or_load(KEY, slow, fresh=True))
        await slow.entered.wait()
        assert await cache.get_or_load(KEY, Loader([1]), model=list[int]) == [1]
        slow.gate.set()
        await reading
    assert await cache.get_or_load(KEY, Loader([2]), model=list[int]) == [1]

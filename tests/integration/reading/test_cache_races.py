"""Loads and fills that are overtaken: what was read before a change is never kept after its invalidation."""

import asyncio
from typing import Any

import orjson
import pytest

from servers import eventually
from unstale import Cache, Load, LoadCancelled
from unstale.protocol.lease import ValueOrLease
from unstale.protocol.names import LEASE
from unstale.redis_tier.acquires import Acquires
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import DATABASE, Loader, WorkerDouble, attached_cache, open_cache

KEY = "user:42:profile"


async def processed(cache: Cache, double: WorkerDouble, *keys: str) -> None:
    """Apply a batch, and wait until this cache has processed it."""
    async with cache.subscribe("*") as events:
        await double.apply(*keys)
        await anext(events)


async def test_a_fill_overtaken_by_an_invalidation_is_stored_nowhere(
    cache: Cache, double: WorkerDouble
) -> None:
    loader = Loader("old")
    loader.gate.clear()
    read = asyncio.create_task(cache.get_or_load(KEY, loader))
    await loader.entered.wait()
    await processed(cache, double, KEY)
    loader.gate.set()
    assert await read == "old"  # it began before the change was known
    assert await double.redis.get(KEY) is None
    assert cache.counters().fills_refused == 1
    loader.value = "new"
    assert await cache.get_or_load(KEY, loader) == "new"


async def test_the_same_for_a_pattern(cache: Cache, double: WorkerDouble) -> None:
    loader = Loader("old")
    loader.gate.clear()
    read = asyncio.create_task(cache.get_or_load(KEY, loader))
    await loader.entered.wait()
    async with cache.subscribe("*") as events:
        await double.redis.unlink(KEY)  # what the worker's SCAN does before the message
        await double.apply(patterns=["user:*:profile"])
        await anext(events)
    loader.gate.set()
    await read
    loader.value = "new"
    assert await cache.get_or_load(KEY, loader) == "new"


async def test_a_fill_whose_lease_was_evicted_is_refused(cache: Cache, double: WorkerDouble) -> None:
    loader = Loader("value")
    loader.gate.clear()
    read = asyncio.create_task(cache.get_or_load(KEY, loader))
    await loader.entered.wait()
    await double.redis.unlink(KEY)  # as maxmemory eviction would
    loader.gate.set()
    assert await read == "value"
    assert await double.redis.get(KEY) is None
    assert cache.counters().fills_refused == 1
    assert cache.counters().near_entries == 0


async def test_a_value_read_before_an_invalidation_does_not_enter_memory_after_it(
    cache: Cache, double: WorkerDouble
) -> None:
    await double.redis.set(KEY, b'"old"', px=60_000)
    overtaken = asyncio.Event()
    real = cache.inspect().tier.acquire

    async def overtake(asked: "asyncio.Future[ValueOrLease]") -> ValueOrLease:
        found = await asked
        await processed(cache, double, KEY)
        overtaken.set()
        return found

    def slow(key: str, **options: Any) -> "asyncio.Future[ValueOrLease]":
        return asyncio.ensure_future(overtake(real(key, **options)))

    cache.inspect().tier.acquire = slow  # type: ignore[method-assign]  # the only way between two steps
    await cache.get_or_load(KEY, Loader())
    assert overtaken.is_set()
    assert cache.counters().near_entries == 0


async def test_who_comes_after_the_invalidation_waits_for_the_next_load(
    cache: Cache, double: WorkerDouble
) -> None:
    loader = Loader("old")
    loader.gate.clear()
    before = asyncio.create_task(cache.get_or_load(KEY, loader))
    await loader.entered.wait()
    await processed(cache, double, KEY)
    loader.value = "new"
    after = [asyncio.create_task(cache.get_or_load(KEY, loader)) for _ in range(10)]
    await asyncio.sleep(0)
    loader.gate.set()
    assert await before == "old"
    assert set(await asyncio.gather(*after)) == {"new"}
    assert loader.calls == 2


async def test_a_long_load_keeps_its_lease(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    async with attached_cache(valkey.url, lease_ttl=0.3) as cache:
        loader = Loader("value")
        loader.gate.clear()
        read = asyncio.create_task(cache.get_or_load(KEY, loader))
        await loader.entered.wait()
        lease = await double.redis.get(KEY)
        # Three lives of the lease, told by the server: an unrelated key that lives as long.
        await double.redis.set("clock", "1", px=900)

        async def over() -> bool:
            return not await double.redis.exists("clock")

        await eventually(over)
        assert await double.redis.get(KEY) == lease
        loader.gate.set()
        assert await read == "value"
        assert cache.counters().fills == 1


async def test_the_lease_of_a_dead_loader_is_waited_for_once_then_each_loads_for_itself(
    valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    async with attached_cache(valkey.url, lease_ttl=0.2) as cache:
        stuck = LEASE + b"somebody-else"
        await double.redis.set(KEY, stuck, px=60_000)
        loads: list[Load] = []

        async def load(load: Load) -> str:
            loads.append(load)
            return "value"

        assert await cache.get_or_load(KEY, load) == "value"
        assert [given.primary for given in loads] == [True]
        assert await double.redis.get(KEY) == stuck
        assert cache.counters().near_entries == 0


async def test_waiting_for_anothers_lease_ends_with_its_value(cache: Cache, double: WorkerDouble) -> None:
    await double.redis.set(KEY, LEASE + b"somebody-else", px=60_000)
    unused = Loader("wrong")
    read = asyncio.create_task(cache.get_or_load(KEY, unused))
    await eventually(lambda: len(cache.inspect().path.flights) == 1)
    await double.redis.set(KEY, b'"theirs"', px=60_000)
    assert await read == "theirs"
    assert unused.calls == 0


async def test_waiting_for_anothers_lease_ends_when_it_is_given_up(
    cache: Cache, double: WorkerDouble
) -> None:
    await double.redis.set(KEY, LEASE + b"somebody-else", px=60_000)
    read = asyncio.create_task(cache.get_or_load(KEY, Loader("mine")))
    await eventually(lambda: len(cache.inspect().path.flights) == 1)
    await double.redis.unlink(KEY)
    assert await read == "mine"
    assert orjson.loads(await double.redis.get(KEY) or b"") == "mine"


async def test_a_loader_that_raises_gives_its_lease_up(cache: Cache, double: WorkerDouble) -> None:
    async def fail() -> object:
        raise LookupError("no such user")

    reads = [asyncio.create_task(cache.get_or_load(KEY, fail)) for _ in range(3)]
    errors = await asyncio.gather(*reads, return_exceptions=True)
    assert [str(error) for error in errors] == ["no such user"] * 3
    assert await double.redis.get(KEY) is None
    assert await cache.get_or_load(KEY, Loader(1)) == 1


async def test_a_value_that_is_not_json_gives_its_lease_up(cache: Cache, double: WorkerDouble) -> None:
    with pytest.raises(TypeError, match=KEY):
        await cache.get_or_load(KEY, lambda: object())
    assert await double.redis.get(KEY) is None


async def test_a_loader_cancelled_from_inside_is_an_error(cache: Cache, double: WorkerDouble) -> None:
    async def cancelled() -> object:
        raise asyncio.CancelledError

    with pytest.raises(LoadCancelled):
        await cache.get_or_load(KEY, cancelled)
    assert await double.redis.get(KEY) is None


async def test_a_loader_that_never_returns_ends_with_its_last_reader(
    cache: Cache, double: WorkerDouble
) -> None:
    loader = Loader()
    loader.gate.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await cache.get_or_load(KEY, loader)
    await eventually(lambda: len(cache.inspect().path.flights) == 0)
    assert await double.redis.get(KEY) is None


async def test_a_cached_not_found_is_a_value_until_the_row_comes(cache: Cache, double: WorkerDouble) -> None:
    loader = Loader(None)
    assert await cache.get_or_load(KEY, loader) is None
    assert await cache.get_or_load(KEY, loader) is None
    assert loader.calls == 1
    loader.value = {"name": "Ada"}
    await processed(cache, double, KEY)
    assert await cache.get_or_load(KEY, loader) == {"name": "Ada"}


async def test_a_loader_hears_up_to_where_a_replica_must_have_replayed(
    cache: Cache, valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    loads: list[Load] = []

    def load(load: Load) -> int:
        loads.append(load)
        return 1

    await silent.redis.hset(silent.names.state, "need_lsn", "16/B374D848")
    await cache.get_or_load("user:1:profile", load)
    await silent.redis.hset(silent.names.state, "primary_until", "99")
    await cache.get_or_load("user:2:profile", load)
    assert loads == [
        Load("user:1:profile", "16/B374D848", primary=False, database=DATABASE),
        Load("user:2:profile", "16/B374D848", primary=True, database=DATABASE),
    ]


@pytest.mark.leaves_keys(r"\{unstale:0\}:.*")
async def test_without_a_position_readers_load_but_store_nothing(cache: Cache, double: WorkerDouble) -> None:
    await double.redis.hdel(double.names.state, "epoch")
    loader = Loader(1)
    # The played worker's watermarks are refused from here on; the cache stays attached for a while.
    assert await cache.get_or_load(KEY, loader) == 1
    assert await double.redis.get(KEY) is None
    assert cache.counters().fills == 0


async def test_a_value_of_another_shape_is_replaced(
    valkey: EmbeddedValkey, cache: Cache, double: WorkerDouble
) -> None:
    from pydantic import BaseModel

    class Profile(BaseModel):
        name: str

    await double.redis.set(KEY, b'{"full_name":"Ada"}', px=60_000)
    assert await cache.get_or_load(KEY, lambda: {"name": "Ada"}, model=Profile) == Profile(name="Ada")
    assert orjson.loads(await double.redis.get(KEY) or b"") == {"name": "Ada"}


@pytest.mark.leaves_keys("user:42:profile")
async def test_a_key_that_holds_another_type_is_left_alone(cache: Cache, double: WorkerDouble) -> None:
    await double.redis.lpush(KEY, "somebody's list")
    assert await cache.get_or_load(KEY, Loader("value")) == "value"
    assert await double.redis.lrange(KEY, 0, -1) == [b"somebody's list"]


async def test_max_staleness_asks_the_database_when_the_caches_may_be_older(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with open_cache(valkey.url) as cache:

        async def attach() -> bool:
            await silent.watermark(age=3.0)
            return cache.attached

        await eventually(attach)
        loader = Loader(1)
        assert await cache.get_or_load(KEY, loader) == 1
        loader.value = 2
        assert await cache.get_or_load(KEY, loader, max_staleness=60) == 1
        assert await cache.get_or_load(KEY, loader, max_staleness=1) == 2
        assert await cache.get(KEY, max_staleness=1) is None
        assert await cache.get_or_load(KEY, loader) == 2  # what was loaded has replaced what they held
        assert await silent.redis.get(KEY) == b"2"
        free = Loader(1)
        assert await cache.get_or_load("free:1", free, ttl=60) == 1
        free.value = 2
        assert await cache.get_or_load("free:1", free, ttl=60) == 1
        assert await cache.get("free:1", max_staleness=60) is None
        assert await cache.get_or_load("free:1", free, ttl=60, max_staleness=60) == 2, "no rule owns it"


@pytest.mark.parametrize("loading", [True, False], ids=["get_or_load", "get"])
async def test_a_reader_cancelled_after_the_reply_leaves_no_lease_in_the_way(
    cache: Cache, double: WorkerDouble, monkeypatch: pytest.MonkeyPatch, loading: bool
) -> None:
    replied, got = Acquires.replied, asyncio.Event()

    def then_cancel(self: Acquires, *args: Any) -> None:
        replied(self, *args)
        got.set()
        read.cancel()  # its future is done, but it has not run again

    monkeypatch.setattr(Acquires, "replied", then_cancel)
    read = asyncio.create_task(cache.get_or_load(KEY, Loader("value")) if loading else cache.get(KEY))
    await asyncio.wait([read])
    assert got.is_set()
    assert read.cancelled()

    tier: Any = cache.inspect().tier
    await eventually(lambda: not tier._background)
    assert await double.redis.get(KEY) is None

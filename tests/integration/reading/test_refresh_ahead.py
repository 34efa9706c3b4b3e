"""`refresh_ahead` and `negative_ttl`: values made new in time, and "not found" that lives shorter."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from servers import eventually
from unstale import Cache
from unstale.protocol import codec
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY = "user:42:profile"


async def fill(cache: Cache, double: WorkerDouble, *, left_ms: int) -> None:
    """A value whose TTL was 100 s and of which ``left_ms`` are left, here and in Redis."""
    await cache.get_or_load(KEY, lambda: "old", ttl=100)
    await double.redis.pexpire(KEY, left_ms)
    entry = cache.inspect().local.near.peek(KEY)
    assert entry is not None
    entry.expires = cache._now() + left_ms / 1000


async def test_a_hit_late_in_its_life_is_answered_at_once_and_made_new(
    cache: Cache, double: WorkerDouble
) -> None:
    await fill(cache, double, left_ms=10_000)
    loader = Loader("new")
    loader.gate.clear()
    assert await cache.get_or_load(KEY, loader, ttl=100, refresh_ahead=0.2) == "old"
    await loader.entered.wait()
    # While it is being made new it stands there, readable for everybody and in the life it had.
    assert orjson.loads(await double.redis.get(KEY) or b"") == "old"
    assert await double.redis.pttl(KEY) <= 10_000
    assert await cache.get_or_load(KEY, loader, ttl=100, refresh_ahead=0.2) == "old"
    loader.gate.set()
    await eventually(lambda: not cache.inspect().early.running)
    assert await cache.get_or_load(KEY, loader, ttl=100, refresh_ahead=0.2) == "new"
    assert orjson.loads(await double.redis.get(KEY) or b"") == "new"
    assert await double.redis.pttl(KEY) > 50_000
    assert loader.calls == 1


async def test_early_in_its_life_nothing_happens(cache: Cache, double: WorkerDouble) -> None:
    await fill(cache, double, left_ms=30_000)
    loader = Loader("new")
    assert await cache.get_or_load(KEY, loader, ttl=100, refresh_ahead=0.2) == "old"
    assert cache.inspect().early.running == {}
    assert loader.calls == 0


@pytest.mark.parametrize("back", [False, True], ids=["changed", "changed and changed back"])
async def test_an_invalidation_meanwhile_wins(cache: Cache, double: WorkerDouble, back: bool) -> None:
    """Also where the value is the same again: what was loaded in between must not replace it."""
    await fill(cache, double, left_ms=10_000)
    loader = Loader("in between")
    loader.gate.clear()
    await cache.get_or_load(KEY, loader, ttl=100, refresh_ahead=0.2)
    await loader.entered.wait()
    async with cache.subscribe(KEY) as events:
        await double.apply(KEY)
        await anext(events)
    if back:
        assert await cache.get_or_load(KEY, lambda: "old", ttl=100) == "old"
    loader.gate.set()
    await eventually(lambda: not cache.inspect().early.running)
    expected = b'"old" ' if back else None  # the space: it lives shorter than its rule says
    assert await double.redis.get(KEY) == expected
    assert await cache.get_or_load(KEY, lambda: "newest") == ("old" if back else "newest")


async def test_one_instance_makes_it_new_and_the_other_takes_it(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    await fill(cache, double, left_ms=15_000)
    loader = Loader("new")
    loader.gate.clear()
    async with attached_cache(valkey.url) as other:
        await other.get_or_load(KEY, lambda: "unused", ttl=100)
        entry = other.inspect().local.near.peek(KEY)
        assert entry is not None
        entry.expires = other._now() + 15
        await cache.get_or_load(KEY, loader, ttl=100, refresh_ahead=0.2)
        await loader.entered.wait()
        second = Loader("second")
        assert await other.get_or_load(KEY, second, ttl=100, refresh_ahead=0.2) == "old"
        await eventually(lambda: not other.inspect().early.running)
        loader.gate.set()
        await eventually(lambda: not cache.inspect().early.running)
        assert await other.get_or_load(KEY, second, ttl=100, refresh_ahead=0.2) == "old"
        await eventually(lambda: not other.inspect().early.running)
        assert await other.get_or_load(KEY, second, ttl=100, refresh_ahead=0.2) == "new"
        assert second.calls == 0


async def test_a_loader_that_fails_costs_a_line_and_nothing_else(
    cache: Cache, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(cache, double, left_ms=10_000)

    def fails() -> None:
        raise LookupError("secret")

    assert await cache.get_or_load(KEY, fails, ttl=100, refresh_ahead=0.2) == "old"
    await eventually(lambda: cache.inspect().early.failures == 1)
    assert "LookupError" in caplog.text
    assert "secret" not in "".join(record.getMessage() for record in caplog.records)
    assert await cache.get_or_load(KEY, fails, ttl=100) == "old"


async def test_closing_cancels_it(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    loader = Loader("new")
    loader.gate.clear()
    async with attached_cache(valkey.url) as cache:
        await fill(cache, double, left_ms=10_000)
        await cache.get_or_load(KEY, loader, ttl=100, refresh_ahead=0.2)
        await loader.entered.wait()


@pytest.mark.parametrize("share", [-0.1, 0.95, 2])
async def test_a_share_that_is_none_is_refused(cache: Cache, share: float) -> None:
    with pytest.raises(ValueError, match="refresh_ahead"):
        await cache.get_or_load(KEY, lambda: 1, refresh_ahead=share)


def test_the_lease_on_a_value_is_one_of_a_kind_and_means_nothing_to_readers() -> None:
    made = b'{"a":1}' + codec.lease_suffix(5)
    assert codec.is_value(made)
    assert codec.lease_suffix(6) != codec.lease_suffix(5)
    assert len(codec.lease_suffix(2**64 - 1)) == len(codec.lease_suffix(0))
    assert orjson.loads(made) == {"a": 1}
    assert codec.decode(b"null" + codec.lease_suffix(2**64 - 1), int) is None


async def test_a_second_lease_on_a_value_takes_the_place_of_the_first(
    cache: Cache, double: WorkerDouble
) -> None:
    """Two processes with ``fresh=True``: the later one's value is stored, the earlier one's refused."""
    await double.redis.set(KEY, b'"old"', px=60_000)
    tier = cache.inspect().tier
    first, second = await tier.replace(KEY, seconds=60), await tier.replace(KEY, seconds=60)
    assert first.lease is not None
    assert second.lease is not None
    assert len(first.lease) == len(second.lease)
    assert not await tier.fill(KEY, first.lease, b'"first"', seconds=60)
    assert await cache.get_or_load(KEY, Loader("unused")) == "old"
    assert await tier.fill(KEY, second.lease, b'"second"', seconds=60)
    assert await double.redis.get(KEY) == b'"second"'


async def test_not_found_lives_as_long_as_it_may(cache: Cache, double: WorkerDouble) -> None:
    assert await cache.get_or_load(KEY, lambda: None, ttl=100, negative_ttl=5) is None
    assert 0 < await double.redis.pttl(KEY) <= 5_000
    entry = cache.inspect().local.near.peek(KEY)
    assert entry is not None
    assert entry.expires - cache._now() <= 5
    await double.apply(KEY)
    await asyncio.sleep(0)
    assert await cache.get_or_load("user:7:profile", lambda: 1, ttl=100, negative_ttl=5) == 1
    assert await double.redis.pttl("user:7:profile") > 50_000


async def test_the_settings_bound_holds_for_what_others_stored(cache: Cache, valkey: EmbeddedValkey) -> None:
    assert await cache.get_or_load(KEY, lambda: None) is None
    async with attached_cache(valkey.url, negative_ttl=5) as other:
        for _ in range(2):  # the white space of the lease hides how long it lives, so the second read asks
            assert await other.get_or_load(KEY, lambda: "unused") is None
        entry = other.inspect().local.near.peek(KEY)
        assert entry is not None
        assert entry.expires - other._now() <= 5


async def test_not_found_is_made_new_late_in_its_own_life_only(cache: Cache, double: WorkerDouble) -> None:
    """Its life is what counts, not that of a value: else every hit would begin a load."""
    loader = Loader(None)
    for _ in range(3):
        options: dict[str, Any] = {"ttl": 100, "negative_ttl": 5, "refresh_ahead": 0.2}
        assert await cache.get_or_load(KEY, loader, **options) is None
        await eventually(lambda: not cache.inspect().early.running)
    assert loader.calls == 1
    entry = cache.inspect().local.near.peek(KEY)
    assert entry is not None
    entry.expires = cache._now() + 0.5
    await double.redis.pexpire(KEY, 500)
    assert await cache.get_or_load(KEY, loader, **options) is None
    await eventually(lambda: loader.calls == 2)


async def test_not_found_that_is_being_made_new_is_still_not_found(
    cache: Cache, double: WorkerDouble, valkey: EmbeddedValkey
) -> None:
    await double.redis.set(KEY, b"null" + codec.lease_suffix(7), ex=100)
    async with attached_cache(valkey.url, negative_ttl=5) as other:
        for _ in range(2):  # the white space of the lease hides how long it lives, so the second read asks
            assert await other.get_or_load(KEY, lambda: "unused") is None
        entry = other.inspect().local.near.peek(KEY)
        assert entry is not None
        assert entry.expires - other._now() <= 5

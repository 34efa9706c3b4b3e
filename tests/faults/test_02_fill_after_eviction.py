"""2: the lease is evicted while its holder loads; what the holder brings is stored nowhere.

Guards: `fill.lua` compares with *its* lease; a fill into an empty place (SET NX) or over another's value
would be stale. The eviction is a real one: ``maxmemory`` is pulled down for a moment.
"""

import pytest
from redis.exceptions import OutOfMemoryError

from faults.played import background, fill_anyway, stored
from unstale import Cache
from unstale.redis_tier.tier import RedisTier
from unstale.runtime import failpoints
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY = "user:42:profile"


async def fill_if_absent(
    self: RedisTier, key: str, lease: bytes, value: bytes, *, seconds: float, **more: object
) -> bool:
    """In the place of `RedisTier.fill`: what a cache does that takes an absent key for its own."""
    return bool(await self.multiplexer.execute_command("SET", key, value, "NX", "PX", round(seconds * 1000)))


async def evict_what_expires(worker: WorkerDouble) -> None:
    """Let Redis evict every key that has a TTL: values and leases, but not state and log."""
    redis = worker.redis
    await redis.config_set("maxmemory-policy", "volatile-random")
    await redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        await redis.set("evict", "all", px=1)
    await redis.config_set("maxmemory", 0)
    assert (await redis.info("stats"))["evicted_keys"] > 0


@pytest.mark.parametrize("defended", [True, False])
async def test_an_evicted_lease_lets_nothing_in(
    follower: Cache, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    if not defended:
        monkeypatch.setattr(RedisTier, "fill", fill_if_absent)
    with failpoints.armed("reader.before_fill", hold=True) as point:
        async with background(follower.get_or_load(KEY, Loader("old"))) as read:
            await point.wait()
            await evict_what_expires(silent)
            assert await stored(silent, KEY) is None
            await silent.apply(KEY)
            point.release()
            assert await read == "old"
    assert (await stored(silent, KEY) == b'"old"') is not defended


@pytest.mark.parametrize("defended", [True, False])
async def test_the_value_that_another_filled_meanwhile_stays(
    follower: Cache,
    silent: WorkerDouble,
    valkey: EmbeddedValkey,
    monkeypatch: pytest.MonkeyPatch,
    defended: bool,
) -> None:
    if not defended:
        monkeypatch.setattr(RedisTier, "fill", fill_anyway)
    loader = Loader("old")
    async with silent.beating(), attached_cache(valkey.url) as other:
        with failpoints.armed("reader.before_fill", hold=True) as point:
            async with background(follower.get_or_load(KEY, loader)) as read:
                await point.wait()
                await evict_what_expires(silent)
                await silent.apply(KEY)
                await silent.redis.set(KEY, b'"new"', ex=60)  # as another process's fill leaves it
                point.release()
                assert await read == "old"
        assert await stored(silent, KEY) == (b'"new"' if defended else b'"old"')
        expected = "new" if defended else "old"
        assert await other.get_or_load(KEY, Loader("unused")) == expected

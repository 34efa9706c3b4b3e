"""1: a fill overtaken by an invalidation stores nothing, in neither tier.

Guards: ``fill.lua`` (compare-and-set on the lease), `InFlightRead.invalidate` and the order "open the read,
then ask Redis" of `ReadPath`. Each test also runs with its defence switched off, and must then see the stale
value.
"""

import pytest

from faults.played import background, fill_anyway, stored
from unstale import Cache
from unstale.near_cache.in_flight import InFlightReads
from unstale.redis_tier.tier import RedisTier
from unstale.runtime import failpoints
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY = "user:42:profile"


@pytest.mark.parametrize("defended", [True, False])
@pytest.mark.parametrize("by", ["worker", "agent"])
async def test_a_value_read_before_a_change_is_not_stored_after_it(
    follower: Cache,
    silent: WorkerDouble,
    valkey: EmbeddedValkey,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
    defended: bool,
) -> None:
    if not defended:
        monkeypatch.setattr(RedisTier, "fill", fill_anyway)
    loader = Loader("old")
    async with silent.beating(), attached_cache(valkey.url) as other:
        with failpoints.armed("reader.before_fill", hold=True) as point:
            async with background(follower.get_or_load(KEY, loader)) as read:
                await point.wait()
                if by == "worker":
                    await silent.apply(KEY)
                else:
                    await other.delete(KEY)
                point.release()
                assert await read == "old"  # it began before the change
        assert (await stored(silent, KEY) == b'"old"') is not defended
        assert follower.counters().fills_refused == (1 if defended else 0)


@pytest.mark.parametrize("defended", [True, False])
async def test_what_was_stored_before_an_invalidation_does_not_enter_memory_after_it(
    follower: Cache, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    if not defended:
        monkeypatch.setattr(InFlightReads, "invalidate", lambda *_: None)
    loader = Loader("old")
    with failpoints.armed("reader.after_fill", hold=True) as point:
        async with (
            background(follower.get_or_load(KEY, loader)) as read,
            follower.subscribe(KEY) as events,
        ):
            await point.wait()
            loader.value = "new"
            await silent.apply(KEY)
            await anext(events)
            point.release()
            assert await read == "old"
    assert await follower.get_or_load(KEY, loader) == ("new" if defended else "old")


@pytest.mark.parametrize("defended", [True, False])
async def test_who_comes_after_the_invalidation_waits_for_the_next_load(
    follower: Cache, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Guards `Flights.join`: a soiled flight is not joined."""
    if not defended:
        monkeypatch.setattr(InFlightReads, "invalidate", lambda *_: None)
    loader = Loader("old")
    loader.gate.clear()
    async with follower.subscribe(KEY) as events, background(follower.get_or_load(KEY, loader)) as early:
        await loader.entered.wait()
        loader.value = "new"
        await silent.apply(KEY)
        await anext(events)
        async with background(follower.get_or_load(KEY, loader)) as late:
            loader.gate.set()
            assert await early == "old"
            assert await late == ("new" if defended else "old")

"""22: the herd: 500 readers of one missing key cause one load; recovery brings no second herd.

Guards: `Flights.join` within a process, the lease (``SET NX``) between processes.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from servers import eventually
from unstale import Cache
from unstale.reading.single_flight import Flights
from unstale.redis_tier.tier import Claim, RedisTier
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY = "user:42:profile"
join = Flights.join
PROCESSES, READERS = 5, 100


@pytest.mark.parametrize("without", ["nothing", "the lease", "both"])
async def test_one_load(
    silent: WorkerDouble, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    take = RedisTier.take

    async def everybody_may(self: RedisTier, key: str, *, soft: bool, seconds: float) -> Claim:
        claim = await take(self, key, soft=soft, seconds=seconds)
        return replace(claim, lease=claim.lease or b"\x00unstale:lease:mine", found=None, live=True)

    if without != "nothing":
        monkeypatch.setattr(RedisTier, "take", everybody_may)
    if without == "both":
        monkeypatch.setattr(Flights, "join", alone)
    expected = {"nothing": 1, "the lease": PROCESSES, "both": PROCESSES * READERS}[without]
    loader = Loader("value")
    loader.gate.clear()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(silent.beating())
        caches = [await stack.enter_async_context(attached_cache(valkey.url)) for _ in range(PROCESSES)]
        reads = [
            asyncio.create_task(cache.get_or_load(KEY, loader)) for cache in caches for _ in range(READERS)
        ]
        await loader.entered.wait()
        await eventually(lambda: loader.calls >= expected)
        loader.gate.set()
        assert set(await asyncio.gather(*reads)) == {"value"}
        assert loader.calls == expected


async def alone(self: Flights, key: str, loader: object, **more: object) -> object:
    """Every reader flies for itself."""
    return await join(Flights(self._fetch, self._marks), key, loader, **more)  # type: ignore[arg-type]


async def test_after_an_invalidation_one_load_again(follower: Cache, silent: WorkerDouble) -> None:
    loader = Loader("old")
    await follower.get_or_load(KEY, loader)
    loader.value = "new"
    async with follower.subscribe(KEY) as events:
        await silent.apply(KEY)
        await anext(events)
    assert set(await asyncio.gather(*(follower.get_or_load(KEY, loader) for _ in range(500)))) == {"new"}
    assert loader.calls == 2

"""22: the herd: 500 readers of one missing key cause one load; recovery brings no second herd.

Guards: `SingleFlight.join` within a process, the lease (``SET NX``) between processes.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from servers import eventually
from unstale import Cache
from unstale.protocol.lease import ValueOrLease
from unstale.reading.single_flight import SingleFlight
from unstale.redis_tier.tier import RedisTier
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY = "user:42:profile"
join = SingleFlight.join
PROCESSES, READERS = 5, 100


@pytest.mark.parametrize("without", ["nothing", "the lease", "both"])
async def test_one_load(
    silent: WorkerDouble, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    acquire = RedisTier.acquire

    async def everybody_may(self: RedisTier, key: str, **options: Any) -> ValueOrLease:
        acquired = await acquire(self, key, **options)
        return ValueOrLease(None, acquired.lease or b"\x00unstale:lease:mine")

    if without != "nothing":
        monkeypatch.setattr(RedisTier, "acquire", everybody_may)
    if without == "both":
        monkeypatch.setattr(SingleFlight, "join", alone)
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


async def alone(self: SingleFlight, *args: Any, **options: Any) -> object:
    """Every reader has a flight of its own."""
    return await join(SingleFlight(self._fetch, self._reads), *args, **options)


async def test_after_an_invalidation_one_load_again(follower: Cache, silent: WorkerDouble) -> None:
    loader = Loader("old")
    await follower.get_or_load(KEY, loader)
    loader.value = "new"
    async with follower.subscribe(KEY) as events:
        await silent.apply(KEY)
        await anext(events)
    assert set(await asyncio.gather(*(follower.get_or_load(KEY, loader) for _ in range(500)))) == {"new"}
    assert loader.calls == 2

"""23: a key invalidated 1,000 times a second while 50 readers want it.

Guards: at most one load running and one waiting per key and process (`Flights`), bounded marks and
memory, and that readers always get an answer, however often the lease is taken away from under them.
"""

import asyncio

from servers import eventually, takes
from unstale import Cache
from unstale.reading.loader import Loader
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, attached_cache

KEY = "user:42:profile"
INVALIDATIONS = 1_000


async def test_readers_go_on_and_end_with_the_truth(silent: WorkerDouble, valkey: EmbeddedValkey) -> None:
    truth = 0
    running = most = loads = 0

    async def load() -> int:
        nonlocal running, most, loads
        running, loads = running + 1, loads + 1
        most = max(most, running)
        found = truth
        await takes(0.002)
        running -= 1
        return found

    async with silent.beating(), attached_cache(valkey.url) as cache:
        over = asyncio.Event()
        answers = [asyncio.create_task(reader(cache, load, over)) for _ in range(50)]
        for _ in range(INVALIDATIONS):
            truth += 1
            last = await silent.apply(KEY)
        over.set()
        counts = await asyncio.gather(*answers)
        assert min(counts) > 0
        assert most <= 2  # this cache has one loader; a second may begin while the first one is soiled
        assert loads < INVALIDATIONS * 2
        await eventually(lambda: cache.inspect().freshness.last == last)
        assert await cache.get_or_load(KEY, load) == truth
        assert len(cache.inspect().local.in_flight) == 0
        assert len(cache.inspect().path.flights) == 0


async def reader(cache: Cache, load: Loader, over: asyncio.Event) -> int:
    """Read as often as possible; what an invalidation was processed of must not be answered any more."""
    count = 0
    while not over.is_set():
        processed = cache.inspect().freshness.last
        found = await cache.get_or_load(KEY, load)
        # Invalidation n came after the truth had become n.
        assert found >= processed, f"read {found} after processing the invalidation of {processed}"
        count += 1
        await asyncio.sleep(0)
    return count

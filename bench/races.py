"""Fills raced against invalidations on a real primary: how many stale values were accepted? None may be.

Every key is loaded once a round and invalidated once a round, over several connections, at random moments
that overlap; now and then its lease is evicted in between, and another loader takes a new one. Loader and
worker use the product's own scripts (`fill.lua`, `apply.lua`). After a round no key may hold an older version
than the "database" has. ``--undefended`` stores with a plain SET instead, as most caches do: must find some.
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Final

from harness import machine, run

from unstale.protocol.names import Names
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.tier import RedisTier
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.leader.leadership import Leadership
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import StoredState
from unstale_worker.sources import Page

KEYS: Final = 1_000
"""Raced at once; what is sent at the same moment travels in one batch, as in an agent."""
AGENTS: Final = 3
"""Connections that loaders use; the worker has its own."""
EVICTED: Final = 0.05
"""Share of the leases that are evicted."""
TTL: Final = 600.0
"""Seconds; nothing expires meanwhile."""
LOADING: Final = 0.02
"""Most seconds between what a loader reads and its fill."""
PAUSES: Final = (0.0, 0.0, 0.0, 0.0005, 0.002)
"""Seconds between two steps, drawn for each; 0 lets the others go first, once."""


class PlainSet(RedisTier):
    """The tier without its defence: what was loaded is stored, whatever happened meanwhile."""

    async def fill(
        self,
        key: str,
        lease: bytes,
        value: bytes,
        *,
        seconds: float,
        refreshed: bool = False,
        spare: float = 0.0,
    ) -> bool:
        await self._command("SET", key, value, "PX", round(seconds * 1000))
        return True


class Race:
    """The database is a dict: what counts is the order in which Redis carries out what it is sent."""

    def __init__(
        self, tiers: list[RedisTier], applier: Applier, state: StoredState, chance: random.Random
    ) -> None:
        self._tiers, self._applier, self._state, self._chance = tiers, applier, state, chance
        self._rows = [0] * KEYS
        self._length = 0.01  # seconds that the last round's loads took: changes come at any moment of it
        self.counts: Counter[str] = Counter()

    async def round(self) -> None:
        """One load and one invalidation of every key, at once; then the look at what is stored."""
        began = time.monotonic()
        order = list(range(KEYS))
        self._chance.shuffle(order)
        loading = KEYS

        def loaded(_: object) -> None:
            nonlocal loading
            loading -= 1
            if not loading:
                self._length = time.monotonic() - began

        async with asyncio.TaskGroup() as group:
            for number in range(KEYS):
                group.create_task(self._load(number)).add_done_callback(loaded)
            start = 0
            while start < KEYS:
                size = self._chance.randint(1, 40)
                group.create_task(self._change(order[start : start + size]))
                start += size
        keys = [key_of(number) for number in range(KEYS)]
        for number, stored in enumerate(await asyncio.gather(*map(self._tiers[0].read, keys))):
            if stored is not None:
                self.counts["stale" if int(stored) != self._rows[number] else "current"] += 1
        await self._tiers[0].unlink(keys)

    async def _load(self, number: int) -> None:
        key, tier = key_of(number), self._chance.choice(self._tiers)
        await self._pause()
        claim = await tier.acquire(key, soft=False, seconds=TTL)
        if claim.lease is None:
            return
        if self._chance.random() < EVICTED:
            await self._pause()
            await tier.unlink([key])
            self.counts["evicted"] += 1
            again = await self._chance.choice(self._tiers).acquire(key, soft=False, seconds=TTL)
            if again.lease is not None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._fill(tier, number, claim.lease))
                    group.create_task(self._fill(tier, number, again.lease))
                return
        await self._fill(tier, number, claim.lease)

    async def _fill(self, tier: RedisTier, number: int, lease: bytes) -> None:
        await self._pause()
        version = self._rows[number]
        await asyncio.sleep(self._chance.uniform(0, LOADING))
        self.counts["overtaken"] += version != self._rows[number]
        stored = await tier.fill(key_of(number), lease, str(version).encode(), seconds=TTL)
        self.counts["fills"] += 1
        self.counts["accepted" if stored else "refused"] += 1

    async def _change(self, numbers: list[int]) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._length))
        for number in numbers:
            self._rows[number] += 1
        await self._pause()
        keys = [key_of(number) for number in numbers]
        await self._applier.apply(self._state, PAGE, keys=keys, patterns=[], store=False)

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.choice(PAUSES))


def key_of(number: int) -> str:
    return f"race:{number}"


PAGE: Final = Page(
    database="1:1", snapshot="10:10:", position="10:10:", more=False, cursor=None, lsn="0/10", flushed="0/10",
    covered=True, current_xmax=10, entries=(), began=0.0,
)  # fmt: skip


async def race(url: str, *, fills: int, seed: int, defended: bool) -> Counter[str]:
    """Rounds until so many fills were raced."""
    names = Names()
    async with AsyncExitStack() as stack:
        multiplexer = Multiplexer(Connections(url, timeout=30), timeout=30, clock=time.monotonic)
        stack.push_async_callback(multiplexer.close)
        leadership = Leadership(multiplexer, names, ttl=3600)
        applier = Applier(multiplexer, names, fence=await leadership.try_acquire(), log_max_bytes=1 << 20)

        async def snapshot() -> Page:
            return PAGE

        await applier.recover(
            await applier.state(), rules="races", published=b"{}", patterns=[], snapshot=snapshot
        )
        kind = RedisTier if defended else PlainSet
        tiers = [
            kind(Connections(url, timeout=30), names, timeout=30, log_max_bytes=1 << 20, clock=time.monotonic)
            for _ in range(AGENTS)
        ]
        for tier in tiers:
            stack.push_async_callback(tier.close)
        racing = Race(tiers, applier, await applier.state(), random.Random(seed))
        while racing.counts["fills"] < fills:
            await racing.round()
        return racing.counts


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fills", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument(
        "--undefended", action="store_true", help="store with a plain SET: must find stale values"
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    async with EmbeddedValkey() as server:
        counts = await race(
            server.url, fills=options.fills, seed=options.seed, defended=not options.undefended
        )
    figures = {
        "fills": counts["fills"],
        "overtaken": counts["overtaken"],
        "accepted": counts["accepted"],
        "refused": counts["refused"],
        "evicted": counts["evicted"],
        "current": counts["current"],
        "stale": counts["stale"],
        "fills_per_s": round(counts["fills"] / (time.monotonic() - began)),
    }
    print(f"races ({'plain SET' if options.undefended else 'fill.lua'}; {machine()})")
    for name, value in figures.items():
        print(f"  {name:24} {value:,}")
    if options.json:
        print(json.dumps({"races": figures, "defended": not options.undefended, "seed": options.seed}))


if __name__ == "__main__":
    run(main)

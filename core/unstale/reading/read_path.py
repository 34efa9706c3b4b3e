"""The way of one read through the tiers: near cache, Redis, lease, loader."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from unstale.errors import RedisUnavailable
from unstale.freshness.published_rules import Rulebook
from unstale.freshness.tracker import Follower, Trust
from unstale.near_cache.in_flight import Mark
from unstale.near_cache.local_state import NearTier
from unstale.protocol import codec
from unstale.protocol.lease import Claim
from unstale.reading.single_flight import Flight, Load, Loaded, Origin, call
from unstale.redis_tier.tier import RedisTier
from unstale.runtime import failpoints

FIRST_LOOK: Final = 0.005
"""Seconds before looking again at a key whose lease another holds; doubles up to `LAST_LOOK`."""
LAST_LOOK: Final = 0.1


class Reader:
    """Reads through the tiers as far as they can be trusted.

    Attributes:
        loads: Loaders run.
        fills: Values stored in Redis under a lease.
        fills_refused: Values not stored because the lease was gone: an invalidation overtook the load.
    """

    def __init__(
        self,
        tier: RedisTier | None,
        near: NearTier,
        follower: Follower,
        rulebook: Rulebook,
        *,
        clock: Callable[[], float],
        lease_ttl: float,
        detached_ttl: float,
    ) -> None:
        self._tier = tier
        self._near = near
        self._follower = follower
        self._rulebook = rulebook
        self._clock = clock
        self._lease_ttl = lease_ttl
        self._detached_ttl = detached_ttl
        self.loads = 0
        self.fills = 0
        self.fills_refused = 0

    async def fetch(self, flight: Flight) -> Loaded:
        """The value for everybody in ``flight``; raises what the loader raises, and TypeError: not JSON."""
        tier = self._tier
        if tier is None or self._follower.trust is Trust.DETACHED:
            return await self._load_adrift(flight)
        try:
            found = await self._value_or_claim(tier, flight)
        except RedisUnavailable:
            return await self._load_adrift(flight)
        if isinstance(found, bytes):
            return Loaded(found, Origin.REDIS)
        if found is None:
            data = await self._load(flight, Load(flight.key, None, primary=True))
            return Loaded(data, Origin.LOADER)
        return Loaded(await self._load_and_fill(tier, flight, found), Origin.LOADER)

    async def look(self, key: str, *, ttl: float | None = None) -> bytes | None:
        """What stands at ``key`` in Redis; a value also enters the near cache.

        None also when Redis may not be asked. Raises `RedisUnavailable`.
        """
        tier = self._tier
        if tier is None or self._follower.trust is Trust.DETACHED:
            return None
        marks = self._near.marks
        mark = marks.open(key)
        try:
            if self._rulebook.owns(key):
                # Its TTL is a safety net only: what removes it is the invalidation. So the near copy may
                # outlive the one in Redis, and a hit costs one GET.
                data = await tier.read(key)
                life = ttl if ttl is not None else self._rulebook.ttl(key)
            else:
                data, left = await tier.read_with_life(key)
                life = self._life(key, left, ttl)
            if not self._follower.believes_redis:
                return None  # since it was asked, the connection was lost: another server may have answered
            if data is not None and codec.is_value(data):
                self._keep(key, data, mark, life)
            return data
        finally:
            marks.close(mark)

    async def look_or_stale(self, key: str, *, ttl: float | None = None) -> Loaded | None:
        """As `look`; where no value stands, the one that was true until the last change, if that is kept.

        A stale value is for an attached agent only and never enters the near cache. No lease is taken for it:
        a refresher makes the key new. Raises `RedisUnavailable`.
        """
        tier = self._tier
        if tier is None or self._follower.trust is not Trust.ATTACHED:
            data = await self.look(key, ttl=ttl)
            return None if data is None else Loaded(data, Origin.REDIS)
        mark = self._near.marks.open(key)
        try:
            data, stale = await tier.read_or_stale(key)
            if not self._follower.believes_redis:
                return None
            if data is not None and codec.is_value(data):
                self._keep(key, data, mark, ttl if ttl is not None else self._rulebook.ttl(key))
            elif stale is not None and self._follower.trust is Trust.ATTACHED:
                return Loaded(stale, Origin.STALE)
            return None if data is None else Loaded(data, Origin.REDIS)
        finally:
            self._near.marks.close(mark)

    # --- Redis ----------------------------------------------------------------------------------

    def _life(self, key: str, life: float | None, ttl: float | None) -> float:
        if life is not None and not self._rulebook.owns(key):
            return life
        return ttl if ttl is not None else self._rulebook.ttl(key)

    def _keep(self, key: str, data: bytes, mark: Mark, seconds: float) -> None:
        """Into the near cache, if nothing happened to the key since the mark and what happens is heard."""
        near = self._near.followed
        now = self._clock()
        if codec.is_nothing(data):
            seconds = self._rulebook.bounded(seconds)
        if mark.clean and now < near.trusted_until:
            near.put(key, data, expires=now + seconds)

    async def _value_or_claim(self, tier: RedisTier, flight: Flight) -> bytes | Claim | None:
        """A value, our lease, or None: load, and store nowhere."""
        key = flight.key
        give_up: float | None = None
        pause = FIRST_LOOK
        while True:
            if failpoints.on:
                await failpoints.reach("reader.before_claim")
            claim = await tier.take(key, soft=False, seconds=self._lease_ttl)
            if claim.found is not None and codec.is_soft_lease(claim.found):
                claim = await tier.take_over(key, seconds=self._lease_ttl)
            if claim.lease is not None:
                return claim
            if flight.forced or not self._follower.believes_redis:
                return None
            if claim.found is not None and codec.is_value(claim.found):
                self._keep(key, claim.found, flight.mark, self._life(key, claim.life, flight.ttl))
                return claim.found
            if claim.found is not None:
                # Another's lease: its value will come soon, or never.
                now = self._clock()
                give_up = give_up or now + self._lease_ttl
                if now >= give_up:
                    return None
                await _pause(flight.mark, min(pause, give_up - now))
                pause = min(pause * 2, LAST_LOOK)
            self._near.marks.close(flight.mark)
            flight.mark = self._near.marks.open(key)  # nothing that was read so far is used

    # --- loading --------------------------------------------------------------------------------

    async def _load(self, flight: Flight, load: Load) -> bytes:
        self.loads += 1
        return codec.encode(flight.key, await call(flight.loader, load))

    def _ttl(self, flight: Flight, data: bytes) -> float:
        return self._rulebook.ttl_of_load(
            flight.key, flight.ttl, flight.negative_ttl, negative=codec.is_nothing(data)
        )

    async def _load_and_fill(self, tier: RedisTier, flight: Flight, claim: Claim) -> bytes:
        key, lease = flight.key, claim.lease
        assert lease is not None  # claims without one do not come here
        stored = False
        try:
            if failpoints.on:
                await failpoints.reach("reader.before_load")
            async with self._prolonged(tier, key, lease):
                # A bound on staleness is a bound against the primary: no replica can promise it.
                primary = claim.primary or not claim.live or flight.forced
                load = Load(key, claim.need_lsn, primary, claim.database)
                data = await self._load(flight, load)
            if failpoints.on:
                await failpoints.reach("reader.before_fill")
            if claim.live:
                ttl = self._ttl(flight, data)
                with contextlib.suppress(RedisUnavailable):
                    refreshed = self._rulebook.refreshed(key)
                    stored = await tier.fill(key, lease, data, seconds=ttl, refreshed=refreshed)
                if stored:
                    self.fills += 1
                    if failpoints.on:
                        await failpoints.reach("reader.after_fill")
                    self._keep(key, data, flight.mark, ttl)
                else:
                    self.fills_refused += 1
        finally:
            if not stored:
                with contextlib.suppress(RedisUnavailable):
                    await tier.release(key, lease)
        return data

    async def _load_adrift(self, flight: Flight) -> Loaded:
        """Redis cannot be used, or there is none: load, and keep it here as far as that is safe."""
        near = self._near
        attached = self._follower.trust is Trust.ATTACHED
        entry = None if flight.forced or attached else near.adrift.read(flight.key)
        if entry is not None:
            return Loaded(entry.data, Origin.MEMORY)
        near.marks.close(flight.mark)
        flight.mark = near.marks.open(flight.key)
        data = await self._load(flight, Load(flight.key, None, primary=True))
        ttl = self._ttl(flight, data)
        if self._tier is None:
            # This process hears of every change itself, before it says that it is attached.
            self._keep(flight.key, data, flight.mark, ttl)
        if flight.mark.clean and self._follower.trust is not Trust.ATTACHED:
            near.adrift.put(flight.key, data, expires=self._clock() + min(ttl, self._detached_ttl))
        return Loaded(data, Origin.LOADER)

    @contextlib.asynccontextmanager
    async def _prolonged(self, tier: RedisTier, key: str, lease: bytes) -> AsyncIterator[None]:
        """Extend the lease every third of its life; a load that is quicker costs one timer and no task."""
        loop = asyncio.get_running_loop()
        task: asyncio.Task[None] | None = None

        async def extend() -> None:
            while True:
                with contextlib.suppress(RedisUnavailable):
                    if not await tier.extend(key, lease, seconds=self._lease_ttl):
                        return
                await asyncio.sleep(self._lease_ttl / 3)

        def begin() -> None:
            nonlocal task
            task = loop.create_task(extend(), name="unstale-extend")

        timer = loop.call_later(self._lease_ttl / 3, begin)
        try:
            yield
        finally:
            timer.cancel()
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _pause(mark: Mark, seconds: float) -> None:
    """Wait, at the longest until the key of ``mark`` is invalidated."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    timer = loop.call_later(seconds, finish)
    mark.on_dirty = finish
    try:
        if mark.clean:
            await done
    finally:
        timer.cancel()
        mark.on_dirty = None

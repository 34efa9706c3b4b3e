"""``get`` with its soft lease, ``set``, ``delete`` and ``invalidate_pattern``."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

from unstale.errors import RedisUnavailable
from unstale.freshness.published_rules import Rulebook
from unstale.freshness.tracker import Follower, Trust
from unstale.near_cache.local_state import NearTier
from unstale.protocol import codec
from unstale.protocol.names import LogId
from unstale.reading.read_path import Reader
from unstale.reading.single_flight import Loaded, Origin
from unstale.redis_tier.multiplexer import FIRST_PAUSE
from unstale.redis_tier.tier import RedisTier
from unstale.runtime import failpoints
from unstale.writing.read_leases import Misses

logger = logging.getLogger("unstale")

SOFT_LEASE_SECONDS: Final = 30.0
"""Life of the lease of a missed ``get``: long, as nobody extends it; harmless, as nobody waits for it."""

MOST_ATTEMPTS: Final = 4
"""Attempts at a direct invalidation whose connection broke: some 150 ms, in which a new one is opened."""


class Writer:
    """What changes the cache on behalf of the caller."""

    def __init__(
        self,
        tier: RedisTier | None,
        near: NearTier,
        follower: Follower,
        rulebook: Rulebook,
        reader: Reader,
        *,
        clock: Callable[[], float],
        detached_ttl: float,
    ) -> None:
        self._tier = tier
        self._near = near
        self._follower = follower
        self._rulebook = rulebook
        self._reader = reader
        self._clock = clock
        self._detached_ttl = detached_ttl
        self._misses = Misses(near.marks, clock)
        self.lost_invalidations = 0
        """Direct invalidations that Redis did not confirm."""

    async def get(self, key: str, *, stale: bool = True) -> Loaded | None:
        """The value of a key that the near cache does not hold; a miss takes a soft lease.

        With ``stale`` it may be one from before a change, where the rule allows it.
        """
        tier, lease, remembered = self._tier, None, False
        mark = self._near.marks.open(key)
        try:
            if tier is not None and self._follower.trust is not Trust.DETACHED:
                with contextlib.suppress(RedisUnavailable):
                    loaded, lease = await self._value_or_soft_lease(tier, key, stale=stale)
                    if loaded is not None and self._follower.believes_redis:
                        return loaded
            if self._follower.trust is not Trust.ATTACHED:
                entry = self._near.adrift.read(key)
                if entry is not None:
                    return Loaded(entry.data, Origin.MEMORY)
            self._misses.remember(key, lease, mark, seconds=SOFT_LEASE_SECONDS)
            remembered = True
            return None
        finally:
            if not remembered:
                self._near.marks.close(mark)

    def missed(self, key: str) -> None:
        """The caller was told "not cached" although something may be: its `set` stores nothing."""
        self._misses.remember(key, None, self._near.marks.open(key), seconds=SOFT_LEASE_SECONDS)

    async def set(self, key: str, data: bytes, ttl: float | None) -> bool:
        """Store under the lease of this task's miss, or as a key that no rule owns; whether it was stored."""
        miss = self._misses.recall(key)
        seconds = self._rulebook.ttl_of_set(key, ttl)
        tier = self._tier
        # What no rule owns has no other truth than this; of an owned key the value must follow a miss.
        allowed = miss.mark.clean if miss is not None else not self._rulebook.owns(key)
        if tier is None:
            if miss is None and not allowed:
                self._warn_of_blind_set(key)
            return self._set_adrift(key, data, seconds, allowed=allowed)
        try:
            if not self._rulebook.loaded:
                await self._rulebook.load()
            if not self._rulebook.owns(key):
                if await self._put(tier, key, data, seconds):
                    return True
                await self._rulebook.load()  # other rules are in force since a moment ago
                if not self._rulebook.owns(key):
                    return await self._put(tier, key, data, seconds)
            if miss is None:
                self._warn_of_blind_set(key)
                await self._invalidate(tier, [key])
                return False
            if self._follower.trust is Trust.DETACHED:
                return self._set_adrift(key, data, seconds, allowed=allowed)
            if miss.lease is None:
                return False
            refreshed = self._rulebook.refreshed(key)
            if await tier.fill(key, miss.lease, data, seconds=seconds, refreshed=refreshed):
                self._reader.fills += 1
                return True
            self._reader.fills_refused += 1
            return False
        except RedisUnavailable:
            return self._set_adrift(key, data, seconds, allowed=allowed)

    async def delete(self, keys: Sequence[str], *, lsn: str | None) -> bool:
        """Invalidate everywhere; False when Redis did not confirm. The local copies are gone in any case."""
        if self._tier is None:
            self._near.drop(keys)
            return True
        try:
            await self._invalidate(self._tier, keys, lsn=lsn)
        except RedisUnavailable as error:
            self._lost(f"{len(keys)} key(s), the first {keys[0]!r}", error)
            return False
        return True

    async def invalidate_pattern(self, pattern: str) -> int:
        """Invalidate every string key that the glob matches; how many were in Redis."""
        if self._tier is None:
            return self._drop_pattern(pattern)
        tier, removed = self._tier, 0
        try:
            # First: from now on loaders read the primary, so a lease that the scan misses fills with news.
            await tier.invalidate(patterns=[pattern])
            async for keys in tier.scan(pattern):
                removed += await tier.unlink(keys)
            # Then the stale values: until a key's scan has passed, the worker may still make its value one.
            await self._rulebook.load()
            if self._rulebook.keeps_stale:
                async for keys in tier.scan(pattern, stale=True):
                    await tier.unlink(keys)
            # Last: agents may have read an old value back between the first message and the scan.
            await tier.invalidate(patterns=[pattern])
        except RedisUnavailable as error:
            self._lost(f"pattern {pattern!r}", error)
        finally:
            self._drop_pattern(pattern)
        return removed

    def _warn_of_blind_set(self, key: str) -> None:
        self._rulebook.warn_once(
            key,
            "set(%r) stored nothing: a rule owns this key, and without a get that missed before it "
            "nothing says how old the value is. The key was invalidated; use get_or_load, or get "
            "before loading",
            key,
        )

    async def _value_or_soft_lease(
        self, tier: RedisTier, key: str, *, stale: bool
    ) -> tuple[Loaded | None, bytes | None]:
        if stale and self._rulebook.serves_stale(key):
            loaded = await self._reader.look_or_stale(key)
        else:
            data = await self._reader.look(key)
            loaded = None if data is None else Loaded(data, Origin.REDIS)
        if loaded is not None:
            return (loaded if codec.is_value(loaded.data) else None), None
        claim = await tier.take(key, soft=True, seconds=SOFT_LEASE_SECONDS)
        if claim.lease is None:
            found = claim.found
            if found is None or not codec.is_value(found):
                return None, None
            return Loaded(found, Origin.REDIS), None
        if not claim.live:
            await tier.release(key, claim.lease)
            return None, None
        return None, claim.lease

    def close(self) -> None:
        """Forget the misses."""
        self._misses.clear()

    async def _invalidate(self, tier: RedisTier, keys: Sequence[str], *, lsn: str | None = None) -> None:
        try:
            if failpoints.on:
                await failpoints.reach("writer.before_invalidate")
            attempts = MOST_ATTEMPTS if tier.lane.connected else 1  # a dead Redis is not waited for
            while True:
                try:
                    await tier.invalidate(keys, lsn=lsn)
                    break
                except RedisUnavailable:
                    attempts -= 1
                    if not attempts:
                        raise
                    await asyncio.sleep(FIRST_PAUSE)  # the lane tries no sooner; twice does no harm
            if failpoints.on:
                await failpoints.reach("writer.after_invalidate")
        finally:
            self._near.drop(keys)  # before the caller goes on, whatever happened: it reads its own writes

    async def _put(self, tier: RedisTier, key: str, data: bytes, seconds: float) -> bool:
        mark, logged = self._near.marks.open(key), LogId(0)
        try:
            put = await tier.put(key, data, seconds=seconds, rules=self._rulebook.hash)
            if put is not None and put[1] == self._follower.epoch:
                logged = put[0]  # else of another log than the one that is heard: its id says nothing here
        finally:
            self._near.marks.close(mark)
            self._near.drop([key], by=logged or math.inf)  # what another task put under a later id stays
        if put is None:
            return False
        if self._follower.trust is Trust.DETACHED and (mark.clean or mark.soiled_by <= logged):
            # What is heard of it up to this id is the echo of it, or older.
            self._set_adrift(key, data, seconds, allowed=True, logged=logged)
        return True

    def _set_adrift(self, key: str, data: bytes, seconds: float, *, allowed: bool, logged: int = 0) -> bool:
        self._near.drop([key], by=logged or math.inf)
        attached = self._follower.trust is Trust.ATTACHED
        if not allowed or (attached and self._tier is not None):
            return False
        now = self._clock()
        if attached:
            self._near.followed.put(key, data, expires=now + seconds)
        else:
            expires = now + min(seconds, self._detached_ttl)
            self._near.adrift.put(key, data, expires=expires, logged=logged)
        return self._tier is None

    def _drop_pattern(self, pattern: str) -> int:
        near = self._near
        held = len(near.adrift) + len(near.followed)
        near.drop((), [pattern])
        return held - len(near.adrift) - len(near.followed)

    def _lost(self, what: str, error: RedisUnavailable) -> None:
        self.lost_invalidations += 1
        logger.warning(
            "Redis did not confirm the invalidation of %s: %s. Here it is gone; elsewhere the worker "
            "removes keys that a rule owns, other keys stay until their TTL",
            what,
            error,
        )

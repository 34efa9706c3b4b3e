"""``get`` with its soft lease, ``set``, ``delete`` and ``invalidate_pattern``."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from unstale.errors import RedisUnavailable
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.trust import Freshness, Trust
from unstale.near_cache.in_flight import InFlightRead
from unstale.near_cache.local_state import LocalState
from unstale.protocol.tags import shown
from unstale.reading.read_path import SOFT_LEASE_SECONDS, ReadPath
from unstale.reading.result import ReadResult
from unstale.redis_tier.error_replies import out_of_memory
from unstale.redis_tier.multiplexer import FIRST_PAUSE
from unstale.redis_tier.shared_tier import Put, SharedTier
from unstale.writing.read_leases import Miss, ReadLeases

logger = logging.getLogger("unstale")

MOST_ATTEMPTS: Final = 4
"""Attempts at a direct invalidation when the connection breaks: about 150 ms, enough to reconnect."""
FOREIGN: Final = (
    "set(%r) stored nothing in Redis: another UNSTALE_NAMESPACE uses this database, and would read the "
    "value; use its namespace, another database number in REDIS_URL, or a Redis of your own"
)


class Writer:
    """Changes the cache on behalf of the caller.

    Attributes:
        lost_invalidations: Direct invalidations that Redis did not confirm.
    """

    def __init__(
        self,
        tier: SharedTier,
        local: LocalState,
        freshness: Freshness,
        rules: KnownRules,
        path: ReadPath,
        *,
        clock: Callable[[], float],
        detached_ttl: float,
    ) -> None:
        self._tier = tier
        self._local = local
        self._freshness = freshness
        self._rules = rules
        self._path = path
        self._detached_ttl = detached_ttl
        self._misses = ReadLeases(local.in_flight, clock)
        self.lost_invalidations = 0

    async def get(self, key: str, *, allows_stale: bool, tags: tuple[str, ...] = ()) -> ReadResult | None:
        """Return the cached value of ``key``; a miss acquires a soft lease for a `set` that may follow."""
        held = self._path.held(key, tags)
        if held is not None:
            return held
        read, remembered = self._local.in_flight.open(key, frozenset(tags)), False
        try:
            found, lease = await self._path.cached_or_lease(key, read, allows_stale=allows_stale, tags=tags)
            if found is None:
                self._misses.remember(key, lease, read, seconds=SOFT_LEASE_SECONDS)
                remembered = True
            return found
        finally:
            if not remembered:
                self._local.in_flight.close(read)

    def missed(self, key: str) -> None:
        """Remember a miss that did not ask Redis, so that the `set` that follows it stores nothing."""
        self._misses.remember(key, None, self._local.in_flight.open(key), seconds=SOFT_LEASE_SECONDS)

    async def set(self, key: str, data: bytes, ttl: float | None, tags: tuple[str, ...] = ()) -> bool:
        """Store a value: under the lease of this task's miss, or directly if no rule owns the key or a tag.

        The lease is that of a miss that named all ``tags``, as no other tells if they were invalidated
        since. Without ``tags`` the value has those of the miss. Return True if the value was stored in the
        shared tier, or in the near cache if there is none.
        """
        miss = self._misses.recall(key)
        if miss is not None and not miss.read.tags.issuperset(tags):
            miss = None
        if miss is not None:
            tags = tuple(sorted(miss.read.tags))
        if self._rules.too_large(key, data):
            self._local.drop([key])
            with contextlib.suppress(RedisUnavailable):
                await self._invalidate([key])  # what is there is older
            return False
        self._rules.check_size(key, data)
        seconds = self._rules.ttl_of_set(key, ttl, tags)
        if not self._tier.shared:
            return self._keep_here(key, data, seconds, miss, tags)
        try:
            if not self._rules.loaded:
                await self._rules.load()
            if not self._rules.owns(key, tags):
                if await self._put(key, data, seconds, tags):
                    return True
                await self._rules.load()  # other rules are in force since a moment ago
                if not self._rules.owns(key, tags):
                    return await self._put(key, data, seconds, tags)
            if miss is None:
                self._warn_of_blind_set(key)
                await self._invalidate([key])
                return False
            if self._freshness.trust is Trust.DETACHED:
                self._keep_here(key, data, seconds, miss, tags)
                return False
            data = self._rules.marked(key, data, seconds)
            return miss.lease is not None and await self._path.fill(
                key, miss.lease, data, seconds=seconds, spare=self._rules.spare(key, None, tags)
            )
        except RedisUnavailable:
            self._keep_here(key, data, seconds, miss, tags)
            return False

    async def delete(self, keys: Sequence[str], *, lsn: str | None) -> None:
        """Invalidate everywhere; raises `RedisUnavailable` if Redis did not confirm.

        The local copies are gone in any case.
        """
        try:
            await self._invalidate(keys, lsn=lsn)
        except RedisUnavailable as error:
            raise self._lost(f"{len(keys)} key(s), the first {shown(keys[0])!r}", error) from error

    async def invalidate_pattern(self, pattern: str) -> int:
        """Invalidate all string keys that the glob matches; return how many existed.

        Raises `RedisUnavailable` if Redis did not confirm. The local copies are gone in any case.
        """
        tier, removed = self._tier, 0
        try:
            # First publish: from now on loaders read the primary, so a lease that the scan misses is safe.
            await tier.invalidate(patterns=[pattern])
            async for keys in tier.scan(pattern):
                removed += await tier.unlink(keys)
            # Then stale and spare values: until the scan has passed a key, the worker may turn its value into
            # one, and a fill may store one.
            async for keys in tier.scan(pattern, beside=True):
                await tier.unlink(keys)
            # Publish again: agents may have read an old value between the first message and the scan.
            await tier.invalidate(patterns=[pattern])
        except RedisUnavailable as error:
            raise self._lost(f"pattern {pattern!r}", error) from error
        finally:
            held = self._local.drop((), [pattern])
        return removed if tier.shared else held

    def close(self) -> None:
        """Forget the misses."""
        self._misses.clear()

    async def _invalidate(self, keys: Sequence[str], *, lsn: str | None = None) -> None:
        try:
            attempts = MOST_ATTEMPTS if self._tier.connected else 1  # do not wait for a dead Redis
            while True:
                try:
                    await self._tier.invalidate(keys, lsn=lsn)
                    break
                except RedisUnavailable:
                    attempts -= 1
                    if not attempts:
                        raise
                    await asyncio.sleep(FIRST_PAUSE)  # the multiplexer reconnects no sooner
        finally:
            self._local.drop(keys)  # even after an error, so that the caller reads its own writes

    async def _put(self, key: str, data: bytes, seconds: float, tags: tuple[str, ...]) -> bool:
        """Store a key that no rule owns; return False if other rules are in force, or another namespace.

        The near cache does not keep the value, because the message about it would drop it. Without an epoch
        there is no message. A detached process could then not read its own value back, so it is kept offline.
        """
        try:
            content = data
            if self._path.sealer is not None:
                try:
                    content = await self._path.sealed(key, data)
                except RedisUnavailable:
                    await self._invalidate([key])  # what is there is older
                    raise
            put = await self._tier.put(key, content, seconds=seconds, rules=self._rules.hash, tags=tags)
        except RedisUnavailable as error:
            if out_of_memory(error):
                self._rules.warn_of_full_redis()
                await self._invalidate([key])  # what is there is older
            raise
        finally:
            self._local.drop([key])
        if put is Put.FOREIGN:
            self._rules.warn_once(key, FOREIGN, key)
        if put in (Put.UNTOLD, Put.FOREIGN) and self._freshness.trust is Trust.DETACHED:
            seconds, read = min(seconds, self._detached_ttl), InFlightRead(key, tags=frozenset(tags))
            self._local.keep_offline(read, data, seconds=seconds)
        return put not in (Put.REFUSED, Put.FOREIGN)

    def _keep_here(
        self, key: str, data: bytes, seconds: float, miss: Miss | None, tags: tuple[str, ...]
    ) -> bool:
        """Keep the value in this process if that is safe; return True if it is.

        It always is if no rule owns the key or a tag. Otherwise the value must follow a miss, and neither the
        key nor a tag must have been invalidated since.
        """
        allowed = miss.read.valid if miss is not None else not self._rules.owns(key, tags)
        if miss is None and not allowed:
            self._warn_of_blind_set(key)
        self._local.drop([key])  # also invalidates reads in flight, which may have found an older value
        read = InFlightRead(key, tags=frozenset(tags))
        if allowed and not self._freshness.attached:
            seconds = min(seconds, self._detached_ttl)
            self._local.keep_offline(read, data, seconds=seconds)
        elif allowed and not self._tier.shared:
            until = self._freshness.trusted_until
            self._local.keep(read, data, seconds=seconds, trusted_until=until)
        return allowed

    def _warn_of_blind_set(self, key: str) -> None:
        self._rules.warn_once(
            key,
            "set(%r) stored nothing: a rule owns this key or a tag, and there was no missed get with these "
            "tags before it, so the value may be out of date. The key was invalidated; use get_or_load, or "
            "call get before loading",
            key,
        )

    def _lost(self, what: str, error: RedisUnavailable) -> RedisUnavailable:
        self.lost_invalidations += 1
        logger.warning("Redis did not confirm the invalidation of %s: %s", what, error)
        return RedisUnavailable(
            f"Redis did not confirm the invalidation of {what}: {error}. The copies in this process are "
            "gone; the worker still removes keys that a rule owns, and other keys stay in Redis until their "
            "TTL. Call it again when Redis is back"
        )

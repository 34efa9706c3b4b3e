"""The shared tier in a cluster: keys, patterns and tags under their names in Redis."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from unstale.protocol.lease import ValueOrLease
from unstale.protocol.messages import PublishedRules
from unstale.protocol.reasons import Kind
from unstale.protocol.spares import Spare
from unstale.redis_tier.moves import SlotWatch
from unstale.redis_tier.shared_tier import Put
from unstale.redis_tier.tier import RedisTier


def by_keys(tier: RedisTier) -> "RedisTier | ClusterTier":
    """Return the tier whose callers name keys as users do."""
    return ClusterTier(tier) if tier.names.cluster else tier


class ClusterTier:
    """The tier of a cluster in which one partition has all keys; see `SharedTier`.

    A single server needs none of this: there each key has its own name, and `RedisTier` is the tier.
    """

    shared = True

    def __init__(self, tier: RedisTier) -> None:
        self._tier, self._stored, self._key_of = tier, tier.names.stored, tier.names.key_of

    @property
    def connected(self) -> bool:
        """True if the connection is open, as far as this process knows."""
        return self._tier.connected

    def read(self, key: str) -> "asyncio.Future[bytes | None]":
        """Return a future of the content of ``key``."""
        return self._tier.read(self._stored(key))

    async def read_or_stale(
        self, key: str, *, life: bool = False
    ) -> tuple[bytes | None, bytes | None, float | None]:
        """Return the content of ``key``, its stale value, and if asked, how long the first lives."""
        return await self._tier.read_or_stale(self._stored(key), life=life)

    async def read_with_life(self, key: str) -> tuple[bytes | None, float]:
        """Return the content of ``key``, and the seconds until it expires."""
        return await self._tier.read_with_life(self._stored(key))

    async def read_spare(self, key: str) -> Spare | None:
        """Return the spare value of ``key``."""
        return await self._tier.read_spare(self._stored(key))

    async def drop_spare(self, key: str) -> None:
        """Remove the spare value of ``key``."""
        await self._tier.drop_spare(self._stored(key))

    def acquire(
        self, key: str, *, soft: bool, seconds: float, life: bool = False, limits: bool = False
    ) -> "asyncio.Future[ValueOrLease]":
        """Return the content of ``key``, or acquire its lease if it is missing."""
        return self._tier.acquire(self._stored(key), soft=soft, seconds=seconds, life=life, limits=limits)

    async def acquire_tagged(
        self, key: str, tags: Sequence[str], *, soft: bool, seconds: float, life: bool = False
    ) -> ValueOrLease:
        """Return the value of ``key`` if it has ``tags`` and none was invalidated, or acquire its lease."""
        stored = self._stored(key)
        return await self._tier.acquire_tagged(
            stored, self._tags(tags), soft=soft, seconds=seconds, life=life
        )

    async def read_tagged(self, key: str, tags: Sequence[str]) -> ValueOrLease:
        """Return such a value, without a lease."""
        return await self._tier.read_tagged(self._stored(key), self._tags(tags))

    def abandon(self, key: str, asked: "asyncio.Future[ValueOrLease]") -> None:
        """Give up the lease of a caller that was cancelled after the reply had arrived, but before it ran."""
        self._tier.abandon(self._stored(key), asked)

    async def take_over(self, key: str, *, seconds: float) -> ValueOrLease:
        """Acquire the lease of ``key`` if it is missing or holds the soft lease of a missed ``get``."""
        return await self._tier.take_over(self._stored(key), seconds=seconds)

    async def replace(
        self, key: str, *, seconds: float, margin: float | None = None, tags: Sequence[str] = ()
    ) -> ValueOrLease:
        """Acquire a lease even if the key holds a value or another lease; a valid value stays readable."""
        stored = self._stored(key)
        return await self._tier.replace(stored, seconds=seconds, margin=margin, tags=self._tags(tags))

    async def extend(self, key: str, lease: bytes, *, seconds: float) -> bool:
        """Extend a lease; return False if it is lost."""
        return await self._tier.extend(self._stored(key), lease, seconds=seconds)

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
        """Store ``value`` under ``lease``; return False if the lease is lost or there is no epoch."""
        stored = self._stored(key)
        return await self._tier.fill(stored, lease, value, seconds=seconds, refreshed=refreshed, spare=spare)

    async def release(self, key: str, found: bytes) -> bool:
        """Remove the content of ``key`` if it is ``found``."""
        return await self._tier.release(self._stored(key), found)

    async def discard_stale(self, key: str, found: bytes) -> None:
        """Remove the stale value kept for ``key`` if it is ``found``."""
        await self._tier.discard_stale(self._stored(key), found)

    async def put(
        self, key: str, value: bytes, *, seconds: float, rules: str, tags: Sequence[str] = ()
    ) -> Put:
        """Store a value that no rule owns, and invalidate it in every instance through the log."""
        return await self._tier.put(
            self._stored(key), value, seconds=seconds, rules=rules, tags=self._tags(tags)
        )

    async def invalidate(
        self,
        keys: Sequence[str] = (),
        *,
        patterns: Sequence[str] = (),
        lsn: str | None = None,
        kind: Kind | None = None,
    ) -> int:
        """Unlink, log, raise need_lsn and publish; return how many of the keys existed."""
        stored = list(map(self._stored, keys))
        return await self._tier.invalidate(stored, patterns=patterns, lsn=lsn, kind=kind)

    async def scan(self, pattern: str, *, beside: bool = False) -> AsyncIterator[list[str]]:
        """Yield the string keys that match ``pattern``, in chunks, without unstale's own keys.

        Raises `RedisUnavailable` at the end if the slot moved meanwhile: then keys may have been missed.
        """
        watch = SlotWatch(self._tier.multiplexer.execute_command, self._tier.names)
        await watch.begin()
        async for names in self._tier.scan(self._stored(pattern), beside=beside):
            yield [self._key_of(name) for name in names]  # of one beside: what `unlink` finds it by
        await watch.end()

    async def unlink(self, keys: Sequence[str]) -> int:
        """Remove keys without logging it; return how many existed."""
        return await self._tier.unlink(list(map(self._stored, keys)))

    async def rules(self) -> PublishedRules | None:
        """Return the published rules, or None if there are none; raises `MessageError` if unreadable."""
        return await self._tier.rules()

    async def used_memory(self) -> int | None:
        """Return how many bytes of memory the node uses; raises `MessageError` if it does not tell."""
        return await self._tier.used_memory()

    def _tags(self, tags: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._tier.names.prefix + tag for tag in tags)

    def __repr__(self) -> str:
        return f"<ClusterTier {self._tier!r}>"

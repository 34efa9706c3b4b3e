"""The shared tier as readers and writers see it: one interface, with Redis behind it or nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from enum import Enum
from typing import Any, Protocol

from unstale.protocol.lease import ValueOrLease
from unstale.protocol.messages import PublishedRules


class Put(Enum):
    """What became of a value that no rule owns."""

    TOLD = "stored, and every instance was told"
    UNTOLD = "stored, but no epoch is live, so nobody could be told"
    REFUSED = "not stored: other rules are in force"


class SharedTier(Protocol):
    """Values and leases that every instance shares.

    Every method raises `RedisUnavailable` when Redis does not answer or refuses the command.

    Attributes:
        shared: False where nothing is shared: the near cache is the only tier then.
        connected: True if its connection is open, as far as is known.
    """

    @property
    def shared(self) -> bool: ...

    @property
    def connected(self) -> bool: ...

    def read(self, key: str) -> Awaitable[bytes | None]:
        """Return what stands at ``key``: a value or a lease (`codec.is_value`)."""

    async def read_or_stale(self, key: str) -> tuple[bytes | None, bytes | None]:
        """Return what stands at ``key``, and the stale value kept for it, as of one moment."""
        ...

    async def read_with_life(self, key: str) -> tuple[bytes | None, float | None]:
        """Return what stands at ``key``, and the seconds until it expires (None: never)."""
        ...

    async def acquire(
        self, key: str, *, soft: bool, seconds: float, life: bool = False, limits: bool = False
    ) -> ValueOrLease:
        """Return what stands at ``key``, or take its lease if it is missing: one atomic step, one trip.

        ``life`` and ``limits`` say which of these fields of the result are wanted. The limits are read after
        the lease was taken.
        """
        ...

    async def take_over(self, key: str, *, seconds: float) -> ValueOrLease:
        """Take the lease that a missed ``get`` left at ``key``, or a missing key's."""
        ...

    async def replace(self, key: str, *, seconds: float, margin: float | None = None) -> ValueOrLease:
        """Take a lease although a value or another's lease stands; a value stays readable.

        With ``margin`` only a value with less than so many seconds to live is taken, and none that another
        process took in the first half of them.
        """
        ...

    async def extend(self, key: str, lease: bytes, *, seconds: float) -> bool:
        """Prolong a lease; return False if it is gone."""
        ...

    async def fill(
        self, key: str, lease: bytes, value: bytes, *, seconds: float, refreshed: bool = False
    ) -> bool:
        """Store ``value`` where ``lease`` stands; return False if it no longer does, or without an epoch.

        For a ``refreshed`` key the stale value goes, and the key leaves the refresh set.
        """
        ...

    async def release(self, key: str, found: bytes) -> bool:
        """Remove what stands at ``key`` if it is ``found``: a lease given up, or an unusable value."""
        ...

    async def discard_stale(self, key: str, found: bytes) -> None:
        """Remove the stale value kept for ``key`` if it is ``found``."""
        ...

    async def put(self, key: str, value: bytes, *, seconds: float, rules: str) -> Put:
        """Store a value that no rule owns, log it and tell every instance.

        Nothing is stored if other rules than those of the hash ``rules`` are in force: they may own the key.
        """
        ...

    async def invalidate(
        self, keys: Sequence[str] = (), *, patterns: Sequence[str] = (), lsn: str | None = None
    ) -> int:
        """Unlink, log, raise need_lsn and publish; return how many keys were there. Stale values go too."""
        ...

    def scan(self, pattern: str, *, stale: bool = False) -> AsyncIterator[list[str]]:
        """Yield the string keys that ``pattern`` matches, in pieces, without unstale's own.

        With ``stale``, the stale values of the keys it matches instead.
        """
        ...

    async def unlink(self, keys: Sequence[str]) -> int:
        """Remove keys without telling anyone; return how many were there."""
        ...

    async def rules(self) -> PublishedRules | None:
        """Return the published rules; None if no worker has published any. Raises also `MessageError`."""
        ...

    async def used_memory(self) -> int | None:
        """Return the bytes of memory that Redis uses; None without Redis."""
        ...


class NoSharedTier:
    """No Redis: no key holds anything, every lease is granted, and values stay in the near cache."""

    shared = False
    connected = False

    def read(self, key: str) -> Awaitable[bytes | None]:
        """Return None."""
        return _nothing(key)

    async def read_or_stale(self, key: str) -> tuple[bytes | None, bytes | None]:
        """Return None twice."""
        return None, None

    async def read_with_life(self, key: str) -> tuple[bytes | None, float | None]:
        """Return None twice."""
        return None, None

    async def acquire(
        self, key: str, *, soft: bool, seconds: float, life: bool = False, limits: bool = False
    ) -> ValueOrLease:
        """Grant a lease: single flight sees to it that this process loads once."""
        return ValueOrLease(None, b"")

    async def take_over(self, key: str, *, seconds: float) -> ValueOrLease:
        """Grant a lease."""
        return ValueOrLease(None, b"")

    async def replace(self, key: str, *, seconds: float, margin: float | None = None) -> ValueOrLease:
        """Grant a lease."""
        return ValueOrLease(None, b"")

    async def extend(self, key: str, lease: bytes, *, seconds: float) -> bool:
        """Return True."""
        return True

    async def fill(
        self, key: str, lease: bytes, value: bytes, *, seconds: float, refreshed: bool = False
    ) -> bool:
        """Return True: the value may be kept in the near cache."""
        return True

    async def release(self, key: str, found: bytes) -> bool:
        """Return True."""
        return True

    async def discard_stale(self, key: str, found: bytes) -> None:
        """Do nothing."""

    async def put(self, key: str, value: bytes, *, seconds: float, rules: str) -> Put:
        """Return `Put.UNTOLD`: there is nobody to tell."""
        return Put.UNTOLD

    async def invalidate(
        self, keys: Sequence[str] = (), *, patterns: Sequence[str] = (), lsn: str | None = None
    ) -> int:
        """Return 0: what is held is in the near cache only."""
        return 0

    async def scan(self, pattern: str, *, stale: bool = False) -> AsyncIterator[list[str]]:
        """Yield nothing."""
        nothing: tuple[list[str], ...] = ()
        for keys in nothing:
            yield keys

    async def unlink(self, keys: Sequence[str]) -> int:
        """Return 0."""
        return 0

    async def rules(self) -> PublishedRules | None:
        """Return None: an embedded worker hands its rules over itself."""
        return None

    async def used_memory(self) -> int | None:
        """Return None."""
        return None

    def __repr__(self) -> str:
        return "<NoSharedTier>"


def _nothing(_key: str) -> "asyncio.Future[Any]":
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future

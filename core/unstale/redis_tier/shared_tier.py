"""The interface of the shared tier, and its implementation for agents without Redis."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from enum import Enum
from typing import Any, Protocol

from unstale.protocol.lease import ValueOrLease
from unstale.protocol.messages import PublishedRules
from unstale.protocol.spares import Spare


class Put(Enum):
    """Result of storing a value that no rule owns."""

    TOLD = "stored, and every instance was told"
    UNTOLD = "stored, but there is no live epoch, so no instance was told"
    REFUSED = "not stored: other rules are in force"
    FOREIGN = "not stored: another namespace uses this Redis database"


class SharedTier(Protocol):
    """Values and leases that all instances share.

    Every method raises `RedisUnavailable` if Redis does not answer or refuses the command.

    Attributes:
        shared: False if nothing is shared, so that the near cache is the only tier.
        connected: True if the connection is open, as far as this process knows.
    """

    @property
    def shared(self) -> bool: ...

    @property
    def connected(self) -> bool: ...

    def read(self, key: str) -> Awaitable[bytes | None]:
        """Return the content of ``key``: a value or a lease (see `codec.is_value`)."""

    async def read_or_stale(
        self, key: str, *, life: bool = False
    ) -> tuple[bytes | None, bytes | None, float | None]:
        """Return the content of ``key``, its stale value, and if asked, how long the first lives.

        Both contents are read at the same moment.
        """
        ...

    async def read_with_life(self, key: str) -> tuple[bytes | None, float]:
        """Return the content of ``key``, and the seconds until it expires (infinite: never)."""
        ...

    async def read_spare(self, key: str) -> Spare | None:
        """Return the spare value of ``key``."""
        ...

    async def drop_spare(self, key: str) -> None:
        """Remove the spare value of ``key``."""
        ...

    def acquire(
        self, key: str, *, soft: bool, seconds: float, life: bool = False, limits: bool = False
    ) -> "asyncio.Future[ValueOrLease]":
        """Return the content of ``key``, or acquire its lease if it is missing: one atomic round trip.

        ``life`` and ``limits`` tell which of these fields of the result are needed. The limits are read after
        the lease was acquired.
        """
        ...

    async def acquire_tagged(
        self, key: str, tags: Sequence[str], *, soft: bool, seconds: float, life: bool = False
    ) -> ValueOrLease:
        """Return the value of ``key`` if it has ``tags`` and none was invalidated, or acquire its lease.

        Also for a reader that names no tags and has found content under tags. ``life`` tells if the life of
        the value is needed. The lease is lost as soon as one of the tags is invalidated.
        """
        ...

    async def read_tagged(self, key: str, tags: Sequence[str]) -> ValueOrLease:
        """Return such a value, without a lease."""
        ...

    def abandon(self, key: str, asked: "asyncio.Future[ValueOrLease]") -> None:
        """Give up the lease of a caller that was cancelled after the reply had arrived, but before it ran.

        A lease that other callers share stays.
        """

    async def take_over(self, key: str, *, seconds: float) -> ValueOrLease:
        """Acquire the lease of ``key`` if it is missing or holds the soft lease of a missed ``get``."""
        ...

    async def replace(
        self, key: str, *, seconds: float, margin: float | None = None, tags: Sequence[str] = ()
    ) -> ValueOrLease:
        """Acquire a lease even if the key holds a value or another lease; a valid value stays readable.

        With ``margin`` the lease is acquired only on a value with less than ``margin`` seconds to live. In
        the first half of the margin it is not acquired if another process already has it.
        """
        ...

    async def extend(self, key: str, lease: bytes, *, seconds: float) -> bool:
        """Extend a lease; return False if it is lost."""
        ...

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
        """Store ``value`` under ``lease``; return False if the lease is lost or there is no epoch.

        If the key is ``refreshed``, also remove its stale value, and remove the key from the refresh set. A
        spare value is stored too, for ``spare`` seconds more; 0: none.
        """
        ...

    async def release(self, key: str, found: bytes) -> bool:
        """Remove the content of ``key`` if it is ``found``: an unneeded lease, or an unusable value."""
        ...

    async def discard_stale(self, key: str, found: bytes) -> None:
        """Remove the stale value kept for ``key`` if it is ``found``."""
        ...

    async def put(
        self, key: str, value: bytes, *, seconds: float, rules: str, tags: Sequence[str] = ()
    ) -> Put:
        """Store a value that no rule owns, under ``tags``, and invalidate it in every instance by the log.

        ``rules`` is the hash of the rules that this process knows. If other rules are in force, nothing is
        stored, because they may own the key.
        """
        ...

    async def invalidate(
        self, keys: Sequence[str] = (), *, patterns: Sequence[str] = (), lsn: str | None = None
    ) -> int:
        """Unlink keys and their stale values, log, raise need_lsn and publish.

        Return how many of the keys existed.
        """
        ...

    def scan(self, pattern: str, *, beside: bool = False) -> AsyncIterator[list[str]]:
        """Yield the string keys that match ``pattern``, in chunks, without unstale's own keys.

        With ``beside``, yield the stale and the spare values of the matching keys instead.
        """
        ...

    async def unlink(self, keys: Sequence[str]) -> int:
        """Remove keys without logging it; return how many existed."""
        ...

    async def rules(self) -> PublishedRules | None:
        """Return the published rules, or None if there are none; raises `MessageError` if unreadable."""
        ...

    async def used_memory(self) -> int | None:
        """Return how many bytes of memory Redis uses; None without Redis."""
        ...


class NoSharedTier:
    """The tier of an agent without Redis: it holds nothing and grants every lease."""

    shared = False
    connected = False

    def read(self, key: str) -> Awaitable[bytes | None]:
        """Return None."""
        return _done(None)

    async def read_or_stale(
        self, key: str, *, life: bool = False
    ) -> tuple[bytes | None, bytes | None, float | None]:
        """Return None three times."""
        return None, None, None

    async def read_with_life(self, key: str) -> tuple[bytes | None, float]:
        """Return None and 0."""
        return None, 0.0

    async def read_spare(self, key: str) -> Spare | None:
        """Return None."""
        return None

    async def drop_spare(self, key: str) -> None:
        """Do nothing."""

    def acquire(
        self, key: str, *, soft: bool, seconds: float, life: bool = False, limits: bool = False
    ) -> "asyncio.Future[ValueOrLease]":
        """Grant a lease: single flight already ensures that this process loads a key once."""
        return _done(ValueOrLease(None, b""))

    async def acquire_tagged(
        self, key: str, tags: Sequence[str], *, soft: bool, seconds: float, life: bool = False
    ) -> ValueOrLease:
        """Grant a lease."""
        return ValueOrLease(None, b"")

    async def read_tagged(self, key: str, tags: Sequence[str]) -> ValueOrLease:
        """Return nothing."""
        return ValueOrLease(None, None)

    def abandon(self, key: str, asked: "asyncio.Future[ValueOrLease]") -> None:
        """Do nothing."""

    async def take_over(self, key: str, *, seconds: float) -> ValueOrLease:
        """Grant a lease."""
        return ValueOrLease(None, b"")

    async def replace(
        self, key: str, *, seconds: float, margin: float | None = None, tags: Sequence[str] = ()
    ) -> ValueOrLease:
        """Grant a lease."""
        return ValueOrLease(None, b"")

    async def extend(self, key: str, lease: bytes, *, seconds: float) -> bool:
        """Return True."""
        return True

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
        """Return True: the value may be kept in the near cache."""
        return True

    async def release(self, key: str, found: bytes) -> bool:
        """Return True."""
        return True

    async def discard_stale(self, key: str, found: bytes) -> None:
        """Do nothing."""

    async def put(
        self, key: str, value: bytes, *, seconds: float, rules: str, tags: Sequence[str] = ()
    ) -> Put:
        """Return `Put.UNTOLD`: there is no other instance."""
        return Put.UNTOLD

    async def invalidate(
        self, keys: Sequence[str] = (), *, patterns: Sequence[str] = (), lsn: str | None = None
    ) -> int:
        """Return 0: only the near cache holds values."""
        return 0

    async def scan(self, pattern: str, *, beside: bool = False) -> AsyncIterator[list[str]]:
        """Yield nothing."""
        nothing: tuple[list[str], ...] = ()
        for keys in nothing:
            yield keys

    async def unlink(self, keys: Sequence[str]) -> int:
        """Return 0."""
        return 0

    async def rules(self) -> PublishedRules | None:
        """Return None: an embedded worker passes its rules to the cache directly."""
        return None

    async def used_memory(self) -> int | None:
        """Return None."""
        return None

    def __repr__(self) -> str:
        return "<NoSharedTier>"


def _done(result: Any) -> "asyncio.Future[Any]":
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future

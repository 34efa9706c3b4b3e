"""Locks between instances: a lease in Redis that expires, and a fence number that only grows."""

import asyncio
import contextlib
import logging
import random
import secrets
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from redis.exceptions import RedisError

from unstale.errors import LockLost, LockTimeout, RedisUnavailable, UnstaleError
from unstale.protocol import codec
from unstale.protocol.durations import Duration, in_seconds
from unstale.protocol.names import Names
from unstale.redis_tier.error_replies import refused
from unstale.redis_tier.scripts import Script
from unstale.redis_tier.tier import RedisTier

logger = logging.getLogger("unstale")

LOCK_SECONDS: Final = 10.0
"""Default ``ttl``: most seconds for which a lock is held without `Lock.extend`."""
COUNTER_SECONDS: Final = 7 * 86_400.0
"""Seconds for which the last fence is remembered; it matters only if the server's clock goes back."""
FIRST_PAUSE: Final = 0.01
LAST_PAUSE: Final = 0.25
"""Seconds between two attempts; the pause doubles, and is random between half and all of it."""
MAX_NAME_BYTES: Final = 512

_LOCK: Final = Script("unstale.redis_tier", "lock", allow_oom=False)


class Locks(ABC):
    """The locks of one cache."""

    def lock(self, name: str, *, ttl: Duration, timeout: Duration | None) -> "Lock":
        """Return a lock that is not held yet; raises ValueError for a name or duration out of range."""
        if not isinstance(name, str) or not 0 < len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES:
            raise ValueError(
                f"a lock's name must be a str of 1 to {MAX_NAME_BYTES} bytes, but it is {name!r:.60}"
            )
        return self._new(name, ttl=_lease(ttl), timeout=in_seconds(timeout, name="timeout", least=0))

    @abstractmethod
    def _new(self, name: str, *, ttl: float, timeout: float | None) -> "Lock":
        """Return a lock that is not held yet."""


def _lease(ttl: Duration) -> float:
    return in_seconds(ttl, name="ttl", least=0.001, most=86_400)


class RedisLocks(Locks):
    """Locks between all instances."""

    def __init__(self, tier: RedisTier, names: Names, *, clock: Callable[[], float]) -> None:
        self._tier, self._names, self._clock = tier, names, clock

    def _new(self, name: str, *, ttl: float, timeout: float | None) -> "Lock":
        return _RedisLock(self._tier, self._names, name, ttl=ttl, timeout=timeout, clock=self._clock)


class LocalLocks(Locks):
    """Locks between the tasks of this process, for agents without Redis. The first lock logs a warning."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._mutexes: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._fence = 0
        self._warned = False

    def next_fence(self) -> int:
        """Return a number above all earlier ones of this process.

        It is also above those of earlier processes, unless the clock went back.
        """
        self._fence = max(self._fence + 1, time.time_ns() // 1000)
        return self._fence

    def _new(self, name: str, *, ttl: float, timeout: float | None) -> "Lock":
        if not self._warned:
            self._warned = True
            logger.warning("without Redis, cache.lock() holds between the tasks of this process only")
        mutex = self._mutexes.get(name)
        if mutex is None:
            mutex = self._mutexes[name] = asyncio.Lock()
        return _LocalLock(self, mutex, name, ttl=ttl, timeout=timeout, clock=self._clock)


class Lock(ABC):
    """A lock that is held inside ``async with``, by one holder at a time: each task makes its own.

    Example:
        >>> async with cache.lock("user:42:greeting") as lock:
        ...     await save_greeting(42, text, fence=lock.fence)

    The lease expires after ``ttl`` seconds, even if the holder is still working; a holder that needs longer
    calls `extend`. If the lease expired too early, the end of the block raises `LockLost`. If that is too
    late, store `fence` with your data and refuse writes with a smaller fence.
    """

    def __init__(self, name: str, *, ttl: float, timeout: float | None, clock: Callable[[], float]) -> None:
        self.name = name
        self._ttl = ttl
        self._timeout = timeout
        self._clock = clock
        self._fence: int | None = None
        self._entered = False
        self._until = 0.0

    @property
    def fence(self) -> int:
        """A number that grows with each holder of any lock of this namespace."""
        if self._fence is None:
            raise RuntimeError(f"lock {self.name!r} is not held")
        return self._fence

    @property
    def held(self) -> bool:
        """True if the lease has not expired, by this process' clock; no I/O."""
        return self._fence is not None and self._clock() < self._until

    async def extend(self, ttl: Duration | None = None) -> None:
        """Hold the lock for ``ttl`` seconds from now, at most a day.

        Raises `LockLost` if it is already lost, and ValueError for a duration out of range.
        """
        if self._fence is None:
            raise RuntimeError(f"lock {self.name!r} is not held")
        seconds, began = self._ttl if ttl is None else _lease(ttl), self._clock()
        if not await self._prolong(seconds):
            raise LockLost(f"lock {self.name!r} was lost before it was extended")
        self._until = began + seconds

    async def __aenter__(self) -> Self:
        if self._entered:  # in another task, or in this one
            raise RuntimeError(
                f"this lock {self.name!r} is already held or waited for; create another with cache.lock()"
            )
        self._entered = True
        try:
            await self._acquire()
        except BaseException:
            self._entered = False
            raise
        return self

    async def _acquire(self) -> None:
        deadline = None if self._timeout is None else self._clock() + self._timeout
        pause = FIRST_PAUSE
        while True:
            began = self._clock()
            fence, wait = await self._take(deadline)
            if fence is not None:
                self._fence, self._until = fence, began + self._ttl
                return
            if deadline is not None and self._clock() >= deadline:
                raise LockTimeout(f"lock {self.name!r} was held by another instance for {self._timeout:g} s")
            rest = wait if deadline is None else min(wait, deadline - self._clock())
            await asyncio.sleep(max(0.001, min(rest, pause * random.uniform(0.5, 1.0))))
            pause = min(pause * 2, LAST_PAUSE)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        held = self.held
        try:
            kept = await self._give_up()
        except RedisUnavailable:
            kept = held  # no other instance could acquire it before it expired; Redis expires the lease
        finally:
            self._fence, self._entered = None, False
        if not kept and error is None:
            raise LockLost(
                f"lock {self.name!r} was lost while it was held: another instance may have worked at the "
                "same time; take it with a longer ttl, or call extend()"
            )

    @abstractmethod
    async def _take(self, deadline: float | None) -> tuple[int | None, float]:
        """Return the fence, or None and the seconds after which another attempt makes sense."""

    @abstractmethod
    async def _prolong(self, seconds: float) -> bool:
        """Hold the lease for ``seconds`` from now; return False if it was lost."""

    @abstractmethod
    async def _give_up(self) -> bool:
        """Release the lease; return False if it was already lost."""

    def __repr__(self) -> str:
        return f"<Lock {self.name} {'held' if self.held else 'not held'}>"


class _RedisLock(Lock):
    """A lock in Redis. Raises `RedisUnavailable`, as only Redis knows which instance holds it."""

    def __init__(
        self,
        tier: RedisTier,
        names: Names,
        name: str,
        *,
        ttl: float,
        timeout: float | None,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name, ttl=ttl, timeout=timeout, clock=clock)
        self._tier = tier
        self._key = names.lock(name)
        self._counter = names.locks
        self._lease = b""

    async def _take(self, deadline: float | None) -> tuple[int | None, float]:
        self._lease = codec.lease(secrets.token_hex(12))
        try:
            fence, wait_ms = await _LOCK(
                self._tier.multiplexer,
                keys=[self._key, self._counter],
                args=[self._lease, round(self._ttl * 1000), round(COUNTER_SECONDS * 1000)],
            )
        except BaseException as error:
            # The lock may have been acquired anyway: the reply was lost, or this task was cancelled.
            with contextlib.suppress(UnstaleError):
                await self._give_up()
            if isinstance(error, RedisError):
                raise refused(error) from error
            raise
        return (int(fence) if fence else None), (wait_ms / 1000 if wait_ms > 0 else 0.0)

    async def _prolong(self, seconds: float) -> bool:
        return await self._tier.extend(self._key, self._lease, seconds=seconds)

    async def _give_up(self) -> bool:
        return await self._tier.release(self._key, self._lease)


class _LocalLock(Lock):
    """A lock between the tasks of this process. It does not expire."""

    def __init__(
        self,
        locks: LocalLocks,
        mutex: asyncio.Lock,
        name: str,
        *,
        ttl: float,
        timeout: float | None,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name, ttl=ttl, timeout=timeout, clock=clock)
        self._locks = locks
        self._mutex = mutex

    @property
    def held(self) -> bool:
        return self._fence is not None

    async def _take(self, deadline: float | None) -> tuple[int | None, float]:
        if deadline is None or not self._mutex.locked():
            await self._mutex.acquire()
            return self._locks.next_fence(), 0.0
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                await self._mutex.acquire()
        except TimeoutError:
            return None, 0.0
        return self._locks.next_fence(), 0.0

    async def _prolong(self, seconds: float) -> bool:
        return True

    async def _give_up(self) -> bool:
        self._mutex.release()
        return True

"""``cache.lock`` for threads: the asynchronous lock, held inside ``with``."""

from types import TracebackType
from typing import Self

from unstale.errors import CacheClosed
from unstale.locks import Lock as AsyncLock
from unstale.protocol.durations import Duration
from unstale.sync.loop_thread import LoopThread


class Lock:
    """A lock that is held inside ``with``, by one holder at a time. See `unstale.Lock`.

    Example:
        >>> with cache.lock("user:42:greeting") as lock:
        ...     save_greeting(42, text, fence=lock.fence)
    """

    def __init__(self, loops: LoopThread, lock: AsyncLock) -> None:
        self._loops, self._lock = loops, lock

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._lock.name

    @property
    def fence(self) -> int:
        """A number that grows with each holder of any lock of this namespace."""
        return self._lock.fence

    @property
    def held(self) -> bool:
        """True if the lease has not expired, by this process' clock; no I/O."""
        return self._lock.held

    def extend(self, ttl: Duration | None = None) -> None:
        """Hold the lock for ``ttl`` seconds from now; raises `LockLost` if it is already lost."""
        self._loops.run(lambda _: self._lock.extend(ttl))

    def __enter__(self) -> Self:
        # An interrupted wait may have acquired the lock, and is then released.
        self._loops.run(lambda _: self._lock.__aenter__(), abandoned=self._release)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._loops.run(lambda _: self._lock.__aexit__(kind, error, traceback))
        except CacheClosed:
            if error is None:
                raise

    async def _release(self) -> None:
        if self._lock.held:
            await self._lock.__aexit__(None, None, None)

    def __repr__(self) -> str:
        return repr(self._lock)

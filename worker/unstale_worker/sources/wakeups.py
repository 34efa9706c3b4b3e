"""Wake-ups: hints that something may be new. Correctness never depends on one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self


class WakeUps:
    """Wake-ups of a pipeline between two reads. This base class has only the timer.

    Example:
        >>> async with WakeUps() as wakeups:
        ...     await wakeups.wait(0.5)
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.received = 0
        """Number of hints received from outside this process."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} received={self.received}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def asleep(self) -> bool:
        """True while every commit sends a hint, so that the worker may wait without polling."""
        return False

    @property
    def listening(self) -> bool:
        """True if a commit can wake this worker now."""
        return False

    @asynccontextmanager
    async def term(self, name: str) -> AsyncIterator[None]:
        """Lead during the block. Database sessions, if there are any, are called ``name``."""
        yield

    async def try_sleep(self) -> bool:
        """Try to make every commit send a hint; if True, read once more and then `wait`."""
        return False

    async def end_sleep(self) -> None:
        """Stop commits from sending hints."""

    async def delays_commits(self) -> bool:
        """Return True if commits wait for each other to send their hints, so that sleep costs writers."""
        return False

    def report_read(self, found: bool, *, asleep: bool) -> None:
        """Report a read without a hint: if it ``found`` changes, and if the worker was ``asleep`` before."""

    async def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for a hint; True if one arrived, possibly before the call."""
        if timeout > 0 and not self._event.is_set():  # a timer costs more than to look
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._event.wait()
        came = self._event.is_set()
        self._event.clear()
        return came

    def hint(self) -> None:
        """Wake the waiter from this process."""
        self._event.set()

    async def close(self) -> None:
        """Stop listening; safe at any time, also twice."""

"""Wake-ups: hints that something may be new. Correctness never depends on one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self


class WakeUps:
    """What a pipeline waits for between two reads; this one alone knows only the timer.

    Example:
        >>> async with WakeUps() as wakeups:
        ...     await wakeups.wait(0.5)
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.asleep = False
        """Whether the worker may wait for a hint alone: every commit sends one now."""
        self.received = 0
        """Hints from outside so far."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} received={self.received}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def listening(self) -> bool:
        """Whether a commit can wake this worker now."""
        return False

    @asynccontextmanager
    async def term(self, name: str) -> AsyncIterator[None]:
        """This worker leads inside; sessions of the database, where there are any, are called ``name``."""
        yield

    async def try_sleep(self) -> bool:
        """Try to make every commit send a hint; True means: read once more, then `wait`."""
        return False

    async def awake(self) -> None:
        """Let commits be silent again."""

    def unannounced(self, found: bool, *, asleep: bool) -> None:
        """Tell whether a read without a hint found changes, and whether we were ``asleep`` before it."""

    async def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for a hint; True when one came (possibly before the call)."""
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
        """End what listens; safe at any moment, also twice."""

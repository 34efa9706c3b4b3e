"""Wake-ups by Supabase Realtime, which tells of the rows that captures write to ``public.unstale_wakeup``."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from unstale_worker.sources.realtime import RealtimeWakeUps
from unstale_worker.sources.rpc import Project
from unstale_worker.sources.wakeups import WakeUps

DEAF_READS: Final = 10
"""Reads by timer that found changes, without any hint between them, ..."""
DEAF_SECONDS: Final = 15.0
"""... and for so many seconds, after which Realtime is connected anew: it can lose changes silently."""


class SupabaseWakeUps(WakeUps):
    """Hints from Realtime while this worker leads; a standby costs the project no connection.

    Example:
        >>> async with SupabaseWakeUps(project) as wakeups, wakeups.term("0123abcd:5"):
        ...     await wakeups.wait(0.5)
    """

    def __init__(self, project: Project) -> None:
        super().__init__()
        self._project = project
        self._realtime: RealtimeWakeUps | None = None
        self._silent_reads, self._heard_at = 0, time.monotonic()

    @property
    def listening(self) -> bool:
        """Whether Realtime delivers, as far as one can know."""
        return self._realtime is not None and self._realtime.healthy

    @property
    def problem(self) -> str:
        """Why Realtime does not deliver; empty while it does."""
        return "" if self._realtime is None else self._realtime.problem

    @asynccontextmanager
    async def term(self, name: str) -> AsyncIterator[None]:
        """Listen inside."""
        async with RealtimeWakeUps(
            self._project.url, self._project.key.text, on_hint=self._told
        ) as self._realtime:
            try:
                yield
            finally:
                self._realtime = None

    def unannounced(self, found: bool, *, asleep: bool) -> None:
        """See `WakeUps.unannounced`."""
        if not found or not self.listening:
            return
        self._silent_reads += 1
        if self._silent_reads >= DEAF_READS and time.monotonic() - self._heard_at > DEAF_SECONDS:
            assert self._realtime is not None
            self._realtime.renew("changes come, and no wake-up tells of them")
            self._silent_reads, self._heard_at = 0, time.monotonic()

    def _told(self) -> None:
        self.received += 1
        self._silent_reads, self._heard_at = 0, time.monotonic()
        self.hint()

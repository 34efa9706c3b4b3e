"""Wake-ups by Supabase Realtime, which reports the rows that captures write to ``public.unstale_wakeup``."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from unstale_worker.sources.realtime import RealtimeWakeUps
from unstale_worker.sources.rpc import Project
from unstale_worker.sources.wakeups import WakeUps

UNANNOUNCED_READS: Final = 10
"""Timer reads that found changes without a hint in between; see `UNANNOUNCED_SECONDS`."""
UNANNOUNCED_SECONDS: Final = 15.0
"""Seconds without a hint. Past both limits Realtime is reconnected: it can lose changes silently."""


class SupabaseWakeUps(WakeUps):
    """Hints from Realtime while this worker leads; a standby uses no connection of the project.

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
        """True while Realtime delivers changes, as far as can be known."""
        return self._realtime is not None and self._realtime.healthy

    @property
    def problem(self) -> str:
        """Reason why Realtime does not deliver; empty while it does."""
        return "" if self._realtime is None else self._realtime.problem

    @asynccontextmanager
    async def term(self, name: str) -> AsyncIterator[None]:
        """Listen during the block."""
        async with RealtimeWakeUps(
            self._project.url, self._project.key.text, on_hint=self._hinted
        ) as self._realtime:
            try:
                yield
            finally:
                self._realtime = None

    def report_read(self, found: bool, *, asleep: bool) -> None:
        """See `WakeUps.report_read`."""
        if not found or not self.listening:
            return
        self._silent_reads += 1
        silent = time.monotonic() - self._heard_at
        if self._silent_reads >= UNANNOUNCED_READS and silent > UNANNOUNCED_SECONDS:
            assert self._realtime is not None
            self._realtime.reconnect("changes arrive without wake-ups")
            self._silent_reads, self._heard_at = 0, time.monotonic()

    def _hinted(self) -> None:
        self.received += 1
        self._silent_reads, self._heard_at = 0, time.monotonic()
        self.hint()

"""A supervised Realtime connection that says whether it missed anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from servers import eventually
from supabase_double import SupabaseDouble
from unstale_worker.sources.realtime import RealtimeWakeUps, Timing

FAST = Timing(
    ready=10, echo_every=60, first_pause=0.01, most_pause=0.05, refused_pause=0.05, settled=0.0, close=0.5
)
"""Recovers at once; echoes are for the tests about them, for a loaded machine may be slow to return one."""
ECHOING = replace(FAST, echo_every=0.1, echo_within=1.0)
"""Notices a dead connection after about a second."""
TABLE = "unstale_wakeup"


class Listening:
    """Makes changes, and compares what was heard of them."""

    def __init__(self, project: SupabaseDouble) -> None:
        self.project = project
        self.made = 0
        """Changes so far."""
        self.seen = 0
        """Those that a reader would have found, who reads at each hint."""
        self.wakeups: RealtimeWakeUps

    def read(self) -> None:
        """What the worker does at a hint."""
        self.seen = self.made

    async def change(self) -> None:
        """Make one, and tell it to whoever is subscribed now."""
        self.made += 1
        await self.project.realtime.change("INSERT", TABLE, {"id": self.made})

    async def healthy(self, *, sessions: int = 1) -> None:
        """Wait until at least so many sessions became ready, and the last one still is."""
        await eventually(
            lambda: self.wakeups.healthy and self.wakeups.sessions >= sessions,
            message=f"session {sessions} is ready",
        )

    async def hears_a_change(self) -> None:
        """A change is heard on the session at hand, not only after the next one began."""
        sessions = self.wakeups.sessions
        await self.change()
        await eventually(lambda: self.seen == self.made)
        assert self.wakeups.sessions == sessions

    def misses_a_change(self) -> None:
        """One that nobody tells: only a hint to read again can find it."""
        self.made += 1

    async def recovers(self, *, sessions: int) -> None:
        """What was missed is found when the next session begins; the change after it is told."""
        await self.healthy(sessions=sessions)
        await eventually(lambda: self.seen == self.made, message="what came meanwhile was read")
        await self.hears_a_change()


@asynccontextmanager
async def listening(
    project: SupabaseDouble, *, timing: Timing = FAST, url: str | None = None, ready: bool = True
) -> AsyncIterator[Listening]:
    """One that is ready, unless told otherwise; afterwards nothing of it runs."""
    stage = Listening(project)
    stage.wakeups = RealtimeWakeUps(
        url or project.url, project.keys.secret, table=TABLE, on_hint=stage.read, timing=timing
    )
    async with stage.wakeups:
        if ready:
            await stage.healthy()
        yield stage
    assert not stage.wakeups.healthy

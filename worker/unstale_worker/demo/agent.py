"""The demo's agent process: reads through its cache like an agent with many users, and checks every read."""

import asyncio
import math
import os
import random
import time
from collections import deque
from typing import Final

import asyncpg

from unstale import Cache, Invalidated
from unstale.settings import Settings
from unstale_worker.demo import child
from unstale_worker.demo.loaders import KINDS, Loaders, Value, sources
from unstale_worker.demo.reports import (
    BREAK_VARIABLE,
    REPORT_EVERY,
    TRACE,
    AgentReport,
    Heard,
    Sample,
    World,
)
from unstale_worker.demo.zipf import Zipf

CONVERSATIONS: Final = 12
"""Users the agent talks to at once."""
PAUSE: Final = 0.03
"""Seconds between two turns of a conversation; each reads three values."""
SAMPLES_A_REPORT: Final = 40
"""Reads that are compared with the staleness the cache claimed; more would only cost time."""
DATABASE_CONNECTIONS: Final = 4


FLOOR_ONLY: Final = "settings:"
"""The writer reports an organization's change as one; its members' traces only forbid older values."""


class Checker:
    """Remembers of which versions the agent has heard, and judges reads by it.

    It knows nothing of the cache: an invalidation names row and version in a ``trace:`` key of its own.
    """

    def __init__(self) -> None:
        self._floors: dict[str, int] = {}
        self._heard: list[Heard] = []
        self._recent: deque[str] = deque(maxlen=3)
        self.invalidations = 0
        self.stale_reads = 0
        self.complaint = ""

    def process(self, event: Invalidated, *, at: float) -> None:
        """The near cache has dropped what ``event`` names; from now on older versions are stale."""
        shown = [key for key in event.keys if not key.startswith(TRACE)]
        self.invalidations += len(shown)
        # Old and new row are both named, in any order; the old one was heard of before.
        traces = [key.removeprefix(TRACE).rpartition(":") for key in event.keys if key.startswith(TRACE)]
        for version, source in sorted((int(number), source) for source, _, number in traces):
            if version > self._floors.get(source, 0):
                self._floors[source] = version
                if not source.startswith(FLOOR_ONLY):
                    self._heard.append(Heard(source, version, at))
        if shown:
            self._recent.append(
                ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
            )

    def floors(self, rows: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
        """What a read that begins now must at least see."""
        return tuple((row, self._floors.get(row, 0)) for row in rows)

    def judge(self, key: str, value: Value, floors: tuple[tuple[str, int], ...]) -> None:
        """Count a stale read: a value older than what had been heard of when the read began."""
        versions = versions_of(value)
        for row, floor in floors:
            if versions[row] < floor:
                self.stale_reads += 1
                self.complaint = self.complaint or (
                    f"{key} came with version {versions[row]} of {row} in a read that began after the "
                    f"invalidation of version {floor}"
                )

    def taken(self) -> tuple[tuple[Heard, ...], tuple[str, ...]]:
        """What was heard since the last call, and its newest keys as text."""
        heard, self._heard = tuple(self._heard), []
        recent = tuple(self._recent)
        self._recent.clear()
        return heard, recent


class Agent:
    """Reads three values of one user after the other, in many conversations at once."""

    def __init__(self, name: str, world: World, cache: Cache, loaders: Loaders, *, broken: bool) -> None:
        self._name, self._cache, self._loaders = name, cache, loaders
        self._checker = Checker()
        self._chance = random.Random(f"{world.seed} {name}")  # repeatable; nothing secret
        self._users = Zipf(range(1, world.users + 1), self._chance)
        self._deaf: dict[str, Value] | None = {} if broken else None
        self._reads = 0
        self._samples: list[Sample] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Read until ``stop`` is set."""
        async with self._cache.subscribe("*") as events, asyncio.TaskGroup() as group:

            async def listen() -> None:
                async for event in events:
                    if isinstance(event, Invalidated):
                        self._checker.process(event, at=time.monotonic())

            tasks = [group.create_task(work) for work in (listen(), self._report())]
            tasks += [group.create_task(self._converse(stop)) for _ in range(CONVERSATIONS)]
            await stop.wait()
            for task in tasks:
                task.cancel()
        child.say(await self._taken())

    async def _converse(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            user = self._users.draw()
            for kind in KINDS:
                await self._read(kind, user)
            await asyncio.sleep(PAUSE * self._chance.uniform(0.5, 1.5))

    async def _read(self, kind: str, user: int) -> None:
        key = f"user:{user}:{kind}"
        floors = self._checker.floors(sources(kind, user))
        before = time.monotonic() - self._cache.staleness
        value = self._deaf.get(key) if self._deaf is not None else None
        if value is None:
            value = await self._cache.get_or_load(key, self._loaders.of(kind, user))
            if self._deaf is not None:
                self._deaf[key] = value
        self._reads += 1
        self._checker.judge(key, value, floors)
        if math.isfinite(before) and len(self._samples) < SAMPLES_A_REPORT:
            self._samples += [Sample(row, number, before) for row, number in versions_of(value).items()]

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            child.say(await self._taken())

    async def _taken(self) -> AgentReport:
        stats = self._cache.counters()
        staleness = self._cache.staleness
        heard, recent = self._checker.taken()
        samples, self._samples = tuple(self._samples), []
        return AgentReport(
            name=self._name,
            reads=self._reads,
            near_hits=stats.near_hits,
            redis_hits=stats.redis_hits,
            loads=stats.loads,
            stale_reads=self._checker.stale_reads,
            invalidations=self._checker.invalidations,
            staleness=staleness if math.isfinite(staleness) else None,
            attached=self._cache.attached,
            heard=heard,
            samples=samples,
            recent=recent,
            complaint=self._checker.complaint,
        )


def versions_of(value: Value) -> dict[str, int]:
    """The versions of the rows that a value was made of."""
    versions = value["versions"]
    assert isinstance(versions, dict)
    return versions


async def main(stop: asyncio.Event) -> None:
    """Read until ``stop`` is set."""
    world = World.from_environment()
    pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=DATABASE_CONNECTIONS)
    async with pool, Cache(Settings.load()) as cache:
        broken = os.environ.get(BREAK_VARIABLE) == "1"
        await Agent(os.environ["DEMO_NAME"], world, cache, Loaders(pool), broken=broken).run(stop)


if __name__ == "__main__":
    child.run(main)

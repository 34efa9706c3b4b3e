"""The demo's agent process: the companion, its HTTP service, and visitors that check every answer."""

import asyncio
import logging
import math
import os
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web
from pydantic import TypeAdapter

from companion.agent import Companion
from companion.knowledge import Origin, Session
from companion.service import application
from unstale import Cache, ConnectionPool, Invalidated
from unstale_worker.demo import child
from unstale_worker.demo.example import companion_folder
from unstale_worker.demo.read_checker import Expected, ReadChecker
from unstale_worker.demo.reports import (
    BREAK_VARIABLE,
    REPORT_EVERY,
    AgentReport,
    Sample,
    World,
)
from unstale_worker.demo.versions import GREETING, KINDS, Value, sources, versions_found, versions_of
from unstale_worker.demo.zipf import Zipf
from unstale_worker.rules import Rules

CONVERSATIONS: Final = 12
"""Number of simultaneous conversations of an agent."""
TURNS: Final = 5
"""Turns of a conversation after its greeting; each turn reads three values."""
PAUSE: Final = 0.03
"""Seconds between two turns."""
WAITING_MS: Final = 250.0
"""A greeting that took longer waited for the language model, which takes at least half a second."""
SAMPLES_A_REPORT: Final = 40
"""Reads per report that are compared with the staleness that the cache claimed."""
MODEL_UNAVAILABLE: Final = 502
"""HTTP status of the service if the language model does not answer."""
SESSION: Final = TypeAdapter(Session)

logger = logging.getLogger(__name__)


class Agent:
    """One instance of the companion, and many simultaneous visitors that talk to it over HTTP."""

    def __init__(
        self, name: str, world: World, companion: Companion, visit: "Visit", *, broken: bool
    ) -> None:
        self._name, self._companion, self._visit = name, companion, visit
        self._cache = companion.cache
        self._checker = ReadChecker()
        self._chance = random.Random(f"{world.seed} {name}")  # repeatable, not for secrets
        self._users = Zipf(range(1, world.users + 1), self._chance)
        self._first_values: dict[tuple[int, str], Value] | None = {} if broken else None
        self._reads = self._greetings = self._waited = self._searches = 0
        self._greeting = ""
        self._samples: list[Sample] = []
        spec = Rules.load(companion_folder() / "unstale.toml").refresh_of(f"user:1:{GREETING}")
        self._serve_stale = 0.0 if spec is None else spec.serve_stale

    async def run(self, stop: asyncio.Event) -> None:
        """Hold conversations until ``stop`` is set."""
        async with self._cache.subscribe("*") as events, asyncio.TaskGroup() as group:

            async def process_events() -> None:
                async for event in events:
                    if isinstance(event, Invalidated):
                        self._checker.process(event, at=time.monotonic())

            tasks = [group.create_task(work) for work in (process_events(), self._report())]
            tasks += [group.create_task(self._converse(stop)) for _ in range(CONVERSATIONS)]
            await stop.wait()
            for task in tasks:
                task.cancel()
        child.send(self._take_report())

    async def _converse(self, stop: asyncio.Event) -> None:
        knowledge = self._companion.knowledge
        reads = {"profile": knowledge.profile, "settings": knowledge.settings, "state": knowledge.state}
        while not stop.is_set():
            user = self._users.draw()
            await self._greet(user)
            await self._search(user)
            for _ in range(TURNS):
                await asyncio.sleep(PAUSE * self._chance.uniform(0.5, 1.5))
                for kind, read in reads.items():
                    expected = self._expect(user, kind)
                    value = self._first_value(user, kind) or await read(user)
                    assert value is not None
                    self._check(user, kind, value, expected)

    async def _greet(self, user: int) -> None:
        """Open a session over HTTP, as an application does."""
        expected = {kind: self._expect(user, kind) for kind in KINDS}
        stale = self._expect(user, GREETING, ago=self._serve_stale)
        session = await self._visit(user)
        if session is None:
            return
        values: dict[str, Value] = {
            "profile": session.profile,
            "settings": session.settings,
            "state": session.state,
            GREETING: session.greeting,
        }
        took = session.took[GREETING]
        if took.origin is Origin.STALE:
            expected[GREETING] = stale
        for kind, value in values.items():
            self._check(user, kind, self._first_value(user, kind) or value, expected[kind])
        self._greetings += 1
        self._waited += took.ms > WAITING_MS
        self._greeting = session.greeting.text

    async def _search(self, user: int) -> None:
        """Search for all memories, which no row can name the key of: a tag invalidates the result."""
        expected = self._expect(user, "search")
        found = await self._companion.knowledge.search(user, "")
        self._searches += 1
        self._checked(f"search:{user}:", versions_found(found, user=user), expected)

    def _expect(self, user: int, kind: str, *, ago: float = 0.0) -> Expected:
        """Return what a read that begins now must see, if it may be ``ago`` seconds old."""
        rows, now = sources(kind, user), time.monotonic()
        floors = self._checker.floors_at(rows, at=now - ago) if ago else self._checker.floors(rows)
        return Expected(floors, now - self._cache.staleness - ago)

    def _first_value(self, user: int, kind: str) -> Value | None:
        """Return the first value that was read, in a demo that is broken on purpose; else None."""
        return None if self._first_values is None else self._first_values.get((user, kind))

    def _check(self, user: int, kind: str, value: Value, expected: Expected) -> None:
        self._checked(f"user:{user}:{kind}", versions_of(value, user=user), expected)
        if self._first_values is not None:
            self._first_values.setdefault((user, kind), value)

    def _checked(self, key: str, versions: Mapping[str, int], expected: Expected) -> None:
        self._reads += 1
        self._checker.check(key, versions, expected.floors)
        if math.isfinite(expected.before) and len(self._samples) < SAMPLES_A_REPORT:
            self._samples += [Sample(row, number, expected.before) for row, number in versions.items()]

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            child.send(self._take_report())

    def _take_report(self) -> AgentReport:
        stats = self._cache.counters()
        staleness = self._cache.staleness
        heard, recent = self._checker.take()
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
            greetings=self._greetings,
            model_calls=self._companion.loaders.greetings_written,
            greeting=self._greeting,
            waited=self._waited,
            stale_hits=stats.stale_hits,
            url=self._visit.url,
            misses=stats.misses,
            searches=self._searches,
            search_loads=self._companion.loaders.searches,
        )


class Visit:
    """Client that opens a conversation at a companion's service."""

    def __init__(self, pool: ConnectionPool, url: str) -> None:
        self._pool, self.url = pool, url

    async def __call__(self, user: int) -> Session | None:
        """Open a session; None if the language model did not answer."""
        http = await self._pool.http()
        async with http.post(f"{self.url}/session", json={"user_id": user}) as response:
            body = await response.read()
            if response.status == MODEL_UNAVAILABLE:
                logger.warning("%s", body.decode())
                await asyncio.sleep(1.0)
                return None
            response.raise_for_status()
        return SESSION.validate_json(body)


async def main(stop: asyncio.Event) -> None:
    """Run the service and its visitors until ``stop`` is set."""
    async with AsyncExitStack() as cleanup:
        pool = await cleanup.enter_async_context(ConnectionPool.from_env())
        cache = await cleanup.enter_async_context(Cache.from_env())
        companion = Companion(cache, pool)
        runner = web.AppRunner(application(companion), access_log=None, shutdown_timeout=1.0)
        cleanup.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await pool.warm()
        visit = Visit(pool, f"http://127.0.0.1:{runner.addresses[0][1]}")
        broken = os.environ.get(BREAK_VARIABLE) == "1"
        agent = Agent(os.environ["DEMO_NAME"], World.from_environment(), companion, visit, broken=broken)
        await agent.run(stop)


if __name__ == "__main__":
    child.run(main)

"""What agents and an audit report to Redis, for the worker's HTTP server: read when asked, and not before."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from redis.asyncio import Redis

from unstale.errors import Unavailable
from unstale.protocol.names import Names
from unstale.settings import WorkerSettings
from unstale_worker.agents.read import Agents, read_agents
from unstale_worker.observe.audit_result import Published, newest
from unstale_worker.redis.client import open_redis

T = TypeVar("T")

FRESH_FOR: Final = 1.0
"""Seconds for which an answer is used again, so that many requests cost Redis one read."""


class ReportsView:
    """Reads them over a connection of its own. Each is None if Redis does not answer or is not used.

    Example:
        >>> view = ReportsView(settings)
        >>> (await view.agents()).agents
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings.in_partitions[0]  # each agent reports to every partition
        self._redis: Redis | None = None
        self._agents: _Kept[Agents] = _Kept(read_agents)
        self._audit: _Kept[tuple[Published, float] | None] = _Kept(newest)

    async def agents(self) -> Agents | None:
        """Return the reports of the agents."""
        return await self._read(self._agents)

    async def audit(self) -> tuple[Published, float] | None:
        """Return the newest result of an audit and its age in seconds; None also without one."""
        return await self._read(self._audit)

    async def _read(self, kept: "_Kept[T]") -> T | None:
        if not self._settings.uses_redis:
            return None
        if self._redis is None:
            self._redis = open_redis(self._settings, connections=1)
        try:
            return await kept.read(self._redis, self._settings.names)
        except Unavailable:
            return None

    async def close(self) -> None:
        """Close the connection."""
        if self._redis is not None:
            await self._redis.aclose()


class _Kept(Generic[T]):
    """An answer that is used again for `FRESH_FOR` seconds."""

    def __init__(self, ask: Callable[[Redis, Names], Awaitable[T]]) -> None:
        self._ask = ask
        self._reading = asyncio.Lock()
        self._found: tuple[T] | None = None
        self._read_at = 0.0

    async def read(self, redis: Redis, names: Names) -> T:
        async with self._reading:
            if self._found is None or time.monotonic() - self._read_at >= FRESH_FOR:
                self._found = None
                self._found = (await self._ask(redis, names),)
                self._read_at = time.monotonic()
            return self._found[0]

"""The reports of the agents for the worker's HTTP server: read when someone asks, and not before."""

import asyncio
import time
from typing import Final

from redis.asyncio import Redis

from unstale.errors import Unavailable
from unstale.settings import WorkerSettings
from unstale_worker.agents.read import Agents, read_agents
from unstale_worker.redis.client import open_redis

FRESH_FOR: Final = 1.0
"""Seconds for which an answer is used again, so that many requests cost Redis one read."""


class AgentsView:
    """Reads the reports over a connection of its own.

    Example:
        >>> view = AgentsView(settings)
        >>> (await view.read()).agents
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._redis: Redis | None = None
        self._reading = asyncio.Lock()
        self._found: Agents | None = None
        self._read_at = 0.0

    async def read(self) -> Agents | None:
        """Return the reports; None if Redis does not answer or is not used."""
        if not self._settings.uses_redis:
            return None
        async with self._reading:
            if self._found is None or time.monotonic() - self._read_at >= FRESH_FOR:
                self._found = await self._ask()
                self._read_at = time.monotonic()
            return self._found

    async def _ask(self) -> Agents | None:
        if self._redis is None:
            self._redis = open_redis(self._settings, connections=1)
        try:
            return await read_agents(self._redis, self._settings.names)
        except Unavailable:
            return None

    async def close(self) -> None:
        """Close the connection."""
        if self._redis is not None:
            await self._redis.aclose()

    def __repr__(self) -> str:
        return f"<AgentsView {self._found!r}>"

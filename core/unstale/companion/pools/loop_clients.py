"""The dependencies of one event loop, each made once on first use, and closed in reverse order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from unstale.companion.pools.dependency import Dependency
from unstale.companion.pools.health import monitor
from unstale.companion.pools.renewable import CLOSED
from unstale.errors import PoolClosed
from unstale.settings import PoolSettings

logger = logging.getLogger("unstale")


class LoopClients:
    """The dependencies of one event loop, in the order in which they were made."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._made: dict[str, Dependency] = {}
        self._making: dict[str, asyncio.Task[Dependency]] = {}
        self._monitor: asyncio.Task[None] | None = None
        self._closed = False

    def made(self, name: str) -> Dependency | None:
        """Return the open dependency of this name, if it was made."""
        dependency = self._made.get(name)
        return dependency if dependency is not None and dependency.alive and not self._closed else None

    def all(self) -> tuple[Dependency, ...]:
        """Return the open dependencies, oldest first."""
        return tuple(dependency for dependency in self._made.values() if dependency.alive)

    async def get(self, name: str, make: Callable[[], Awaitable[Dependency]]) -> Dependency:
        """Return the dependency; make it first, once for all callers.

        A cancelled caller does not stop ``make``. Raises what ``make`` raises, and `PoolClosed`.
        """
        made = self.made(name)
        if made is not None:
            return made
        if self._closed:
            raise PoolClosed(CLOSED)
        task = self._making.get(name)
        if task is None:
            task = self._making[name] = asyncio.create_task(
                self._make(name, make), name=f"unstale-pool-{name}"
            )
            task.add_done_callback(_retrieve)
        return await asyncio.shield(task)

    async def _make(self, name: str, make: Callable[[], Awaitable[Dependency]]) -> Dependency:
        try:
            dependency = await make()
        finally:
            del self._making[name]
        if self._closed:
            await dependency.close(timeout=0.0)
            raise PoolClosed(CLOSED)
        self._made.pop(name, None)  # a closed one must not keep its place in the order
        self._made[name] = dependency
        if self._monitor is None:
            self._monitor = asyncio.create_task(
                monitor(self.all, interval=self._settings.pool_health_interval), name="unstale-pool-health"
            )
        return dependency

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Refuse new requests, wait for requests in flight, close the youngest first."""
        self._closed = True
        if self._making:
            await asyncio.wait(tuple(self._making.values()))
        if self._monitor is not None:
            self._monitor.cancel()
            await asyncio.wait([self._monitor])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.pool_shutdown
        for dependency in reversed(tuple(self._made.values())):
            try:
                await dependency.close(timeout=max(0.0, deadline - loop.time()))
            except Exception:
                logger.exception("%s was not closed cleanly", dependency.name)

    def __repr__(self) -> str:
        return f"<LoopClients {', '.join(self._made) or 'nothing'}{', closed' if self._closed else ''}>"


def _retrieve(task: asyncio.Task[Dependency]) -> None:
    """Retrieve the exception: every caller may have been cancelled, and asyncio would log it."""
    if not task.cancelled():
        task.exception()

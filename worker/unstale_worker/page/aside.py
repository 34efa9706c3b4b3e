"""Answers questions of the page in a thread with connections of its own, so that the worker goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final, TypeVar

from unstale.settings import WorkerSettings
from unstale_worker.doctor import examine
from unstale_worker.redis.client import open_redis
from unstale_worker.redis.explained import explained
from unstale_worker.rules import Rules
from unstale_worker.runtime.daemon_call import call_in_daemon_thread
from unstale_worker.sources.opening import open_source
from unstale_worker.tracing import explain
from unstale_worker.tracing.why import why

T = TypeVar("T")
SECONDS_MOST: Final = 60.0
"""Seconds that one question may take."""


class Aside:
    """One question at a time; the others wait.

    Example:
        >>> await Aside(settings, rules).why("user:42:profile", most=10)
    """

    def __init__(self, settings: WorkerSettings, rules: Rules) -> None:
        self._settings, self._rules = settings, rules
        self._one = asyncio.Lock()

    async def why(self, key: str, *, most: int) -> dict[str, Any]:
        """See `unstale_worker.tracing.why.why`."""

        async def ask() -> dict[str, Any]:
            settings = self._settings.in_partition(key)
            async with explained(settings), open_redis(settings) as redis:
                return asdict(await why(redis, settings.names, self._rules, key, most=most))

        return await self._ask(ask)

    async def explain(self, table: str, row: explain.Row, old: explain.Row | None) -> dict[str, Any]:
        """See `unstale_worker.tracing.explain.explain`."""

        async def ask() -> dict[str, Any]:
            source = None
            if explain.asks_database(self._rules, explain.watched_table(self._rules, table), row):
                source = await open_source(self._settings)
            try:
                return asdict(await explain.explain(self._rules, table, row, old=old, source=source))
            finally:
                if source is not None:
                    await source.close()

        return await self._ask(ask)

    async def doctor(self) -> list[dict[str, Any]]:
        """See `unstale_worker.doctor.examine`."""

        async def ask() -> list[dict[str, Any]]:
            return [asdict(finding) for finding in await examine(self._settings)]

        return await self._ask(ask)

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(SECONDS_MOST):
                return await ask()

        async with self._one:
            return await call_in_daemon_thread(lambda: asyncio.run(bounded()), name="unstale page")

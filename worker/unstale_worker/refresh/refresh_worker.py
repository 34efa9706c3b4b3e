"""Runs a refresh worker: calls Python loaders until it is told to stop."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from unstale.errors import ConfigurationError, RedisUnavailable, UnsupportedServer
from unstale.runtime.cancellation import cancelled
from unstale.settings import WorkerSettings
from unstale_worker.observe.http import serving
from unstale_worker.observe.preflight import check_redis
from unstale_worker.observe.refresh_counters import Tally
from unstale_worker.observe.status import Counters, Role, Status
from unstale_worker.redis.client import open_redis
from unstale_worker.refresh.coordinator import open_queue
from unstale_worker.refresh.python.loader_worker import OwnWorker
from unstale_worker.refresh.redis.refresh_set import RefreshQueue
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader
from unstale_worker.runtime.retry import retry

log = structlog.get_logger("unstale.refresh")

OTHER_RULES: Final = (
    "the leader has other rules than this process; start both with the same unstale.toml, the leader first"
)
LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether Redis answers; between, readiness says what was found last."""


class RefreshWorker:
    """One process that calls loaders; run any number of them.

    Example:
        >>> worker = RefreshWorker(WorkerSettings.from_env(), Rules.load())
        >>> await worker.run(stop=asyncio.Event())
    """

    def __init__(self, settings: WorkerSettings, rules: Rules) -> None:
        specs = [spec for spec in rules.refreshes if isinstance(spec.loader, PythonLoader)]
        if not specs:
            raise ConfigurationError(
                f"{rules.file} names no loader for a refresh worker; write "
                'loader = "package.module:function" in a [refresh."..."] table '
                "(row and sql loaders run in the leader)"
            )
        self._settings, self._rules = settings, rules
        self._tally, self._counters = Tally(), Counters()
        self._own = OwnWorker(settings, rules, specs, self._tally)
        self._role, self._redis_up, self._problem = Role.STARTING, False, ""

    @property
    def name(self) -> str:
        """What it is called in the queue."""
        return self._own.name

    def __repr__(self) -> str:
        return f"<RefreshWorker {self.name} {self._role}>"

    def status(self) -> Status:
        """One frozen picture of now."""
        return Status(
            role=self._role,
            source="",
            fence=0,
            lag=float("inf"),
            watermark_age=float("inf"),
            listening=False,
            redis=self._redis_up,
            database=False,
            problem=self._problem,
            counters=replace(self._counters),
            refreshed=replace(self._tally),
        )

    async def run(self, *, stop: asyncio.Event) -> None:
        """Call loaders until ``stop`` is set; then see `crew.working` for what becomes of those that run.

        Raises `UnsupportedServer` at the start; everything else is retried for ever.
        """
        await self._check(stop)
        lane, queue = open_queue(self._settings, rules=self._rules.hash)
        looking = asyncio.create_task(self._look(queue), name="refresh readiness")
        try:
            while not stop.is_set():
                await retry(lambda: self._work(queue, stop), stop=stop, failed=self._note, logger=log)
        finally:
            self._role = Role.STOPPING
            await cancelled(looking)
            await lane.close()

    async def _work(self, queue: RefreshQueue, stop: asyncio.Event) -> None:
        async with (
            self._own.docket() as docket,
            self._own.working(docket, queue, grace=self._settings.refresh_grace) as task,
        ):
            self._role = Role.REFRESHING
            log.info("calling loaders", worker=self._own.name, refreshes=len(self._rules.refreshes))
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancelled(stopping)
            self._role = Role.STOPPING if stop.is_set() else Role.STARTING
        if task.done() and not task.cancelled():
            task.result()

    async def _check(self, stop: asyncio.Event) -> None:
        async def attempt() -> None:
            redis = open_redis(self._settings, connections=2)
            try:
                server = await check_redis(redis, state_key=self._settings.names.state)
            finally:
                await _closed(redis.aclose())
            self._redis_up, self._problem = True, ""
            log.info("server checked", redis=server, rules=self._rules.hash[:8])

        await retry(attempt, stop=stop, fatal=(UnsupportedServer,), failed=self._note, logger=log)

    async def _look(self, queue: RefreshQueue) -> None:
        while True:
            try:
                current = await queue.in_force()
                self._redis_up = True
                if not current and self._problem != OTHER_RULES:
                    log.warning("calling no loader", problem=OTHER_RULES, rules=self._rules.hash[:8])
                if self._problem == OTHER_RULES or not current:
                    self._problem = "" if current else OTHER_RULES
            except RedisUnavailable as error:
                self._redis_up, self._problem = False, str(error)
            await asyncio.sleep(LOOK_EVERY)

    def _note(self, error: Exception) -> None:
        self._problem = str(error) or type(error).__name__
        self._counters.failed(self._problem)
        if isinstance(error, RedisUnavailable):
            self._redis_up = False


async def run_refresh_service(settings: WorkerSettings, rules: Rules, *, stop: asyncio.Event) -> None:
    """Call loaders and answer HTTP until ``stop`` is set.

    Raises `ConfigurationError` for loaders that are not there, what `RefreshWorker.run` raises, and
    `UnstaleError` when the HTTP port is taken.
    """
    worker = RefreshWorker(settings, rules)
    async with serving(settings, worker.status) as url:
        log.info("serving", http=url, rules=rules.file)
        await worker.run(stop=stop)
    log.info("stopped")


async def _closed(closing: Awaitable[Any]) -> None:
    with suppress(Exception):
        await closing

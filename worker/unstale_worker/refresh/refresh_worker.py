"""Runs a refresh worker: a process that calls Python loaders until it is told to stop."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from unstale.errors import ConfigurationError, RedisUnavailable, RuleErrors, UnsupportedServer
from unstale.runtime.cancellation import cancelled
from unstale.sealing.sealer import sealer_of
from unstale.settings import WorkerSettings
from unstale_worker.observe.preflight import check_redis
from unstale_worker.observe.refresh_counters import RefreshCounters
from unstale_worker.observe.status import Role, Status, WorkerCounters
from unstale_worker.redis.client import open_redis
from unstale_worker.redis.explained import explained
from unstale_worker.refresh.python.loader_calls import mistakes
from unstale_worker.refresh.python.loader_worker import LoaderWorker
from unstale_worker.refresh.redis.presence import ANNOUNCE_EVERY
from unstale_worker.refresh.redis.store import RefreshStore, open_store
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader
from unstale_worker.runtime.retry import retry

log = structlog.get_logger("unstale.refresh")

OTHER_RULES: Final = (
    "the leader has other rules than this process; start both with the same unstale.toml, the leader first"
)

WITHDRAW_SECONDS: Final = 1.0
"""Seconds that withdrawing may take; without it, the leader waits until this worker was silent for 5 s."""


class RefreshWorker:
    """One process that calls loaders; run any number of them.

    Example:
        >>> worker = RefreshWorker(WorkerSettings.load(), Rules.load())
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
        sealer_of(settings)  # refuses keys that cannot be used, and a missing extra, before anything runs
        self._settings, self._rules = settings, rules
        self._tally, self._counters = RefreshCounters(), WorkerCounters()
        self._loaders = LoaderWorker(settings, rules, specs, self._tally, failed=self._note)
        self._role, self._redis_up, self._problem = Role.STARTING, False, ""

    @property
    def name(self) -> str:
        """Its name among the refresh workers."""
        return self._loaders.name

    def __repr__(self) -> str:
        return f"<RefreshWorker {self.name} {self._role}>"

    def status(self) -> Status:
        """Return one frozen picture of now."""
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
            refreshed=self._tally.copy(),
        )

    async def run(self, *, stop: asyncio.Event) -> None:
        """Call loaders until ``stop`` is set; `LoaderWorker.run` says what becomes of those that run then.

        Raises `UnsupportedServer` and `ConfigurationError` at the start, also for loaders that cannot be
        called; every other error is retried.
        """
        if not await self._loaders_found(stop):
            return
        fatal = (ConfigurationError, UnsupportedServer)
        await retry(self._check, stop=stop, fatal=fatal, failed=self._note, logger=log)
        async with open_store(self._settings, self._rules) as store:
            watching = asyncio.create_task(
                retry(lambda: self._watch(store), failed=self._note, logger=log), name="refresh readiness"
            )
            stopping = asyncio.create_task(self._withdraw(store, stop), name="refresh withdrawal")
            try:
                await retry(lambda: self._call_loaders(store, stop), stop=stop, failed=self._note, logger=log)
            finally:
                self._role = Role.STOPPING
                await cancelled(watching)
                if stop.is_set():
                    await asyncio.wait([stopping], timeout=WITHDRAW_SECONDS)
                await cancelled(stopping)

    async def _loaders_found(self, stop: asyncio.Event) -> bool:
        """Raise `RuleErrors` for loaders that cannot be called; return False if ``stop`` is set meanwhile."""
        looking = asyncio.create_task(mistakes(self._settings, self._rules))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([looking, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not looking.done():
                return False
            if wrong := looking.result():
                raise RuleErrors([mistake.error for mistake in wrong])
            return True
        finally:
            await cancelled(stopping)
            await cancelled(looking)

    async def _call_loaders(self, store: RefreshStore, stop: asyncio.Event) -> None:
        def started() -> None:
            self._role = Role.REFRESHING
            log.info("calling loaders", worker=self.name, refreshes=len(self._rules.refreshes))

        grace = self._settings.refresh_grace
        try:
            await self._loaders.run(store, stop=stop, grace=grace, started=started)
        finally:
            self._role = Role.STOPPING if stop.is_set() else Role.STARTING

    async def _check(self) -> None:
        """Raise `UnsupportedServer` for a version that is not supported, and `RedisRefused`."""
        redis = open_redis(self._settings, connections=2)
        try:
            async with explained(self._settings):
                server = await check_redis(redis, self._settings.names)
        finally:
            await _closed(redis.aclose())
        self._redis_up, self._problem = True, ""
        log.info("server checked", redis=server.name, rules=self._rules.hash[:8])

    async def _watch(self, store: RefreshStore) -> None:
        """Keep readiness current, and say that this worker is there while the leader has its rules."""
        while True:
            try:
                current = await store.leases.in_force()
                self._redis_up = True
                if not current and self._problem != OTHER_RULES:
                    log.warning("calling no loader", problem=OTHER_RULES, rules=self._rules.hash[:8])
                self._problem = "" if current else OTHER_RULES
                if current and self._role is Role.REFRESHING:
                    await store.presence.announce(self.name)
            except RedisUnavailable as error:
                self._redis_up, self._problem = False, str(error)
            await asyncio.sleep(ANNOUNCE_EVERY)

    async def _withdraw(self, store: RefreshStore, stop: asyncio.Event) -> None:
        """Let others take over as soon as this worker is told to stop."""
        await stop.wait()
        self._role = Role.STOPPING
        with suppress(RedisUnavailable):
            await store.presence.withdraw(self.name)

    def _note(self, error: Exception) -> None:
        self._problem = str(error) or type(error).__name__
        self._counters.failed(self._problem)
        if isinstance(error, RedisUnavailable):
            self._redis_up = False


async def _closed(closing: Awaitable[Any]) -> None:
    with suppress(Exception):
        await closing

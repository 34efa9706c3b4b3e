"""Owns every task of a worker: leads or stands by, retries for ever, drains on stop."""

import asyncio
import math
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import structlog

from unstale.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    LeadershipLost,
    RedisUnavailable,
    UnsupportedServer,
)
from unstale.redis_tier.connections import Connections as RedisConnections
from unstale.redis_tier.multiplexer import Lane
from unstale.runtime.cancellation import background, insistently
from unstale.settings import WorkerSettings
from unstale_worker.leader.leadership import Leadership
from unstale_worker.leader.pipeline import Pipeline
from unstale_worker.leader.poll_policy import Pace
from unstale_worker.leader.purge import keep_purging
from unstale_worker.observe.preflight import check_redis, check_watches
from unstale_worker.observe.refresh_counters import Tally
from unstale_worker.observe.status import Counters, Role, Status, seconds_since
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.client import open_redis
from unstale_worker.refresh.coordinator import Refresher
from unstale_worker.refresh.python.loader_check import look_for_loaders
from unstale_worker.rules import Rules
from unstale_worker.runtime.log_throttle import LogThrottle
from unstale_worker.runtime.retry import retry
from unstale_worker.sources import Source
from unstale_worker.sources.opening import check_settings, open_source
from unstale_worker.sources.wakeups import WakeUps

log = structlog.get_logger("unstale.worker")


class Worker:
    """One worker process: run any number of them, one leads.

    Example:
        >>> worker = Worker(WorkerSettings.from_env(), Rules.load())
        >>> await worker.run(stop=asyncio.Event())
    """

    def __init__(self, settings: WorkerSettings, rules: Rules) -> None:
        check_settings(settings)
        self._settings, self._rules = settings, rules
        self._counters = Counters()
        self._refreshed = Tally()
        self._role = Role.STARTING
        self._fence = 0
        self._redis_up = self._database_up = False
        self._problem = ""
        self._first = True
        self._stood_by = asyncio.Event()
        self._source: Source | None = None
        self._wakeups: WakeUps | None = None

    def __repr__(self) -> str:
        return f"<Worker {self._role} fence={self._fence} rules={self._rules.hash[:8]}>"

    def status(self) -> Status:
        """One frozen picture of now."""
        return Status(
            role=self._role,
            source="" if self._source is None else self._source.kind,
            fence=self._fence,
            lag=seconds_since(self._counters.caught_up_at),
            watermark_age=seconds_since(self._counters.watermark_at),
            listening=self._wakeups is not None and self._wakeups.listening,
            redis=self._redis_up,
            database=self._database_up,
            problem=self._problem,
            counters=replace(self._counters),
            refreshed=replace(self._refreshed),
        )

    async def run(self, *, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then finish the batch at hand and give the lease up.

        Raises `ConfigurationError` when the rules do not fit the database at the start, and
        `UnsupportedServer` for a server that cannot carry the protocol; everything else is retried for ever.
        """
        async with AsyncExitStack() as stack:
            source = self._source = await self._prepare(stop)
            if source is None:
                return
            stack.push_async_callback(source.close)
            lane = Lane(
                RedisConnections(
                    self._settings.redis_url.get_secret_value(), timeout=self._settings.redis_timeout
                ),
                timeout=self._settings.redis_timeout,
                clock=time.monotonic,
            )
            stack.push_async_callback(lane.close)
            leadership = Leadership(lane, self._settings.names, ttl=self._settings.leader_ttl)
            stack.push_async_callback(leadership.resign)
            self._wakeups = await stack.enter_async_context(source.wakeups())
            async with (
                background(_hint_on_stop(stop, self._wakeups)),
                background(self._look_for_loaders()),
            ):
                await self._serve(lane, source, leadership, self._wakeups, stop)
            self._role = Role.STOPPING

    async def _prepare(self, stop: asyncio.Event) -> Source | None:
        """Check both servers, for as long as they do not answer."""

        async def attempt() -> Source:
            redis = open_redis(self._settings, connections=2)
            try:
                server = await check_redis(redis, state_key=self._settings.names.state)
            finally:
                await redis.aclose()
            self._redis_up = True
            source = await open_source(self._settings)
            try:
                check_watches(self._rules, (await source.watch_versions()).values())
                self._database_up = True
                for failure in await source.check_queries(self._rules):
                    self._counters.failed(str(failure))
                    log.error("a fan-out query does not run", problem=str(failure))
            finally:
                await source.close()
            log.info("servers checked", redis=server, source=source.kind, rules=self._rules.hash[:8])
            return source

        return await retry(
            attempt, stop=stop, fatal=(ConfigurationError, UnsupportedServer), failed=self._note
        )

    async def _serve(
        self,
        lane: Lane,
        source: Source,
        leadership: Leadership,
        wakeups: WakeUps,
        stop: asyncio.Event,
    ) -> None:
        async def term() -> bool:
            self._role = Role.STANDBY
            if fence := await self._stand_by(leadership, stop):
                self._fence, self._role = fence, Role.LEADING
                await self._lead(fence, lane, source, leadership, wakeups, stop)
            return True

        while not stop.is_set():
            await retry(term, stop=stop, failed=self._note)

    async def _stand_by(self, leadership: Leadership, stop: asyncio.Event) -> int:
        throttle = LogThrottle(every=math.inf)
        while not stop.is_set():
            fence = await leadership.try_acquire()
            self._redis_up = True
            if fence:
                log.info("leading", fence=fence)
                return fence
            self._first = False
            self._stood_by.set()
            if throttle.allows("standing by"):
                log.info("standing by: another worker leads")
            with suppress(TimeoutError):
                async with asyncio.timeout(leadership.pause):
                    await stop.wait()
        return 0

    async def _look_for_loaders(self) -> None:
        await self._stood_by.wait()
        await look_for_loaders(self._rules)

    async def _lead(
        self,
        fence: int,
        lane: Lane,
        source: Source,
        leadership: Leadership,
        wakeups: WakeUps,
        stop: asyncio.Event,
    ) -> None:
        """Lead until stopped or until the lease is lost; servers that go away meanwhile are waited for."""
        applier = Applier(
            lane,
            self._settings.names,
            fence=fence,
            log_max_bytes=self._settings.log_max_bytes,
            script_keys=self._settings.script_keys,
        )
        refresher = Refresher(
            self._settings, self._rules, self._refreshed,
            session=leadership.session_name, failed=self._counters.failed,
        )  # fmt: skip
        hinted = 0

        def cycled() -> None:
            nonlocal hinted
            self._first = False
            self._healthy()
            if applier.keys != hinted:
                hinted = applier.keys
                refresher.hint()

        pace = Pace(
            poll_min=max(self._settings.poll_min, source.least_pause),
            poll_max=max(self._settings.poll_max, 10 * source.least_pause),
        )

        async def pipe() -> bool:
            if ended := await source.begin_term(leadership.consumer, fence):
                log.info("ended sessions of an older leader", sessions=ended)
            pipeline = Pipeline(
                source, applier, self._rules, wakeups, self._counters,
                pace=pace, interval=self._settings.watermark_interval, healthy=cycled,
                first=self._first,
            )  # fmt: skip
            await pipeline.run(stop)
            return True

        try:
            async with wakeups.term(leadership.session_name), asyncio.TaskGroup() as group:
                purge = keep_purging(source.beside(), leadership, self._settings, self._counters)
                keeping = group.create_task(insistently(leadership.keep()), name="lease")
                purging = group.create_task(insistently(purge), name="purge")
                refreshing = group.create_task(insistently(refresher.run()), name="refresh")
                await retry(pipe, stop=stop, fatal=(LeadershipLost,), failed=self._note)
                keeping.cancel()
                purging.cancel()
                refreshing.cancel()
        except* LeadershipLost as lost:
            self._role = Role.STANDBY
            log.warning("no longer leading", fence=fence, why=str(lost.exceptions[0]))
        finally:
            await source.end_term()
        if stop.is_set():
            await leadership.resign()

    def _healthy(self) -> None:
        self._redis_up = self._database_up = True
        self._problem = ""

    def _note(self, error: Exception) -> None:
        self._problem = str(error) or type(error).__name__
        self._counters.failed(self._problem)
        if isinstance(error, RedisUnavailable):
            self._redis_up = False
        elif isinstance(error, DatabaseUnavailable):
            self._database_up = False


async def _hint_on_stop(stop: asyncio.Event, wakeups: WakeUps) -> None:
    await stop.wait()
    wakeups.hint()

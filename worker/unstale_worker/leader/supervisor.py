"""Runs one worker: checks the servers, stands by, leads, retries, and drains when it is stopped."""

import asyncio
import math
import time
from contextlib import AsyncExitStack

import structlog

from unstale.errors import ConfigurationError, LeadershipLost, UnsupportedServer
from unstale.protocol.names import Names
from unstale.redis_tier.connections import Connections as RedisConnections
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.partition_count import OtherPartitions, check_partitions
from unstale.redis_tier.url import RedisUrl
from unstale.runtime.cancellation import background
from unstale.sealing.sealer import sealer_of
from unstale.settings import WorkerSettings
from unstale_worker.fanout.failure import ColumnTypes
from unstale_worker.leader.leadership import Leadership
from unstale_worker.leader.term import Ends, Term
from unstale_worker.observe.preflight import check_redis, check_watches, typed
from unstale_worker.observe.status import Role, Status
from unstale_worker.observe.worker_health import WorkerHealth
from unstale_worker.redis.applier import FenceRaised
from unstale_worker.redis.claim import NamespaceTaken, claim
from unstale_worker.redis.client import open_redis
from unstale_worker.redis.explained import explained
from unstale_worker.redis.tiers import PROMISES, Tier
from unstale_worker.refresh.python.loader_check import look_for_loaders
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader
from unstale_worker.runtime.event_loop import stopped_within
from unstale_worker.runtime.log_throttle import LogThrottle
from unstale_worker.runtime.retry import retry, single_errors
from unstale_worker.sources import Source
from unstale_worker.sources.opening import check_settings, open_source
from unstale_worker.sources.wakeups import WakeUps

log = structlog.get_logger("unstale.worker")


class Worker:
    """One worker process. Any number may run; one of them leads.

    Example:
        >>> worker = Worker(WorkerSettings.load(), Rules.load())
        >>> await worker.run(stop=asyncio.Event())
    """

    def __init__(self, settings: WorkerSettings, rules: Rules) -> None:
        check_settings(settings)
        if settings.partitions > 1 and rules.refreshes:
            raise ConfigurationError(
                f"{rules.file} has [refresh], which needs one partition so far, and UNSTALE_PARTITIONS is "
                f"{settings.partitions}. Remove [refresh], or set UNSTALE_PARTITIONS=1 for worker and agents"
            )
        sealer_of(settings)  # refuses keys that cannot be used, and a missing extra, before anything runs
        if any(not isinstance(spec.loader, PythonLoader) for spec in rules.refreshes):
            _ = settings.postgres  # row and sql loaders read it also beside the source over HTTPS
        self._sentinels = bool(RedisUrl.parse(settings.redis_url.get_secret_value()).sentinels)
        self._settings, self._rules = settings, rules.require_watches()
        self._health = WorkerHealth()
        self._stood_by = asyncio.Event()
        self._source: Source | None = None
        self._wakeups: WakeUps | None = None

    def __repr__(self) -> str:
        return f"<Worker {self._health.role} fence={self._health.fence} rules={self._rules.hash[:8]}>"

    def status(self) -> Status:
        """Return a frozen copy of the worker's state now."""
        return self._health.status(
            source="" if self._source is None else self._source.kind,
            listening=self._wakeups is not None and self._wakeups.listening,
        )

    async def run(self, *, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then finish the batch at hand and release the lease.

        Raises `ConfigurationError` if the rules do not fit the database at the start, or if another namespace
        uses this Redis database, and `UnsupportedServer`
        for a server that cannot carry the protocol. Every other error is retried.
        """
        async with AsyncExitStack() as stack:
            # What the settings say wrongly ends a first start. Later, the same error is an outage.
            source = self._source = await retry(
                self._check_servers,
                stop=stop, fatal=(ConfigurationError, UnsupportedServer), failed=self._health.failed,
            )  # fmt: skip
            if source is None:
                return
            stack.push_async_callback(source.close)
            url, timeout = self._settings.redis_url.get_secret_value(), self._settings.redis_timeout

            def open_multiplexer(names: Names) -> Multiplexer:
                connections = RedisConnections(url, timeout=timeout, tag=names.tag)
                multiplexer = Multiplexer(connections, timeout=timeout, clock=time.monotonic)
                stack.push_async_callback(multiplexer.close)
                return multiplexer

            names = self._settings.names
            multiplexer = open_multiplexer(names)
            multiplexers = [
                multiplexer if each.names == names else open_multiplexer(each.names)
                for each in self._settings.in_partitions
            ]
            leadership = Leadership(
                multiplexer, names, ttl=self._settings.leader_ttl, partitions=self._settings.partitions
            )
            stack.push_async_callback(leadership.resign)
            wakeups = self._wakeups = await stack.enter_async_context(source.wakeups())
            await stack.enter_async_context(background(_hint_on_stop(stop, wakeups)))
            await stack.enter_async_context(background(self._look_for_loaders()))
            ends = Ends(source, wakeups, multiplexers)
            while not stop.is_set():
                await retry(
                    lambda: self._serve(ends, leadership, stop),
                    stop=stop, fatal=(NamespaceTaken, OtherPartitions), failed=self._health.failed,
                )  # fmt: skip
            self._health.role = Role.STOPPING

    async def _check_servers(self) -> Source:
        redis = open_redis(self._settings, connections=2)
        try:
            async with explained(self._settings):
                server = await check_redis(redis, self._settings.names, sentinels=self._sentinels)
        finally:
            await redis.aclose()
        self._health.redis, self._health.tier = True, server.tier
        source = await open_source(self._settings)
        try:
            versions = (await source.watch_versions()).values()
            check_watches(self._rules, versions)
            await source.watch_states()  # the leader calls it later: say now if it is missing
            self._health.database = True
            types: ColumnTypes = {}
            for failure in await source.check_queries(self._rules, types):
                self._health.counters.failed(str(failure))
                log.error("a fan-out query does not run", problem=str(failure))
            self._rules = typed(self._rules, versions, types)
        finally:
            await source.close()
        await self._claim()
        log.info(
            "servers checked",
            redis=server.name, tier=server.tier.value, source=source.kind, rules=self._rules.hash[:8],
        )  # fmt: skip
        if server.tier is Tier.NO_RUN_ID:
            log.warning("Redis does not tell its run id", promises=PROMISES[server.tier])
        return source

    async def _claim(self) -> None:
        """Claim the Redis database; the last check, so that a worker that cannot run claims nothing."""
        names = self._settings.names
        if names.cluster:
            url, timeout = self._settings.redis_url.get_secret_value(), self._settings.redis_timeout
            await check_partitions(url, names, self._settings.partitions, timeout=timeout)
        redis = open_redis(self._settings, connections=1)
        try:
            await claim(redis, self._settings.names)
        finally:
            await redis.aclose()

    async def _serve(self, ends: Ends, leadership: Leadership, stop: asyncio.Event) -> None:
        """Stand by until this worker acquires the lease, then lead until it is lost."""
        self._health.role = Role.STANDBY
        if not await self._stand_by(leadership, stop):
            return
        self._health.fence, self._health.role = leadership.fence, Role.LEADING
        try:
            await Term(ends, leadership, self._settings, self._rules, self._health).run(stop)
        except* LeadershipLost as lost:
            self._health.role = Role.STANDBY
            for error in single_errors(lost):
                if isinstance(error, FenceRaised):
                    leadership.exceed(error.fence)
            log.warning("no longer leading", fence=leadership.fence, why=str(lost.exceptions[0]))
        if stop.is_set():
            await leadership.resign()

    async def _stand_by(self, leadership: Leadership, stop: asyncio.Event) -> bool:
        """Try to acquire the lease until that succeeds; returns False when ``stop`` is set first."""
        throttle = LogThrottle(every=math.inf)
        while not stop.is_set():
            fence = await leadership.try_acquire()
            self._health.redis = True
            if fence:
                log.info("leading", fence=fence)
                return True
            self._health.first_start = False
            self._stood_by.set()
            if throttle.allows("standing by"):
                log.info("standing by: another worker leads")
            await stopped_within(stop, seconds=leadership.pause)
        return False

    async def _look_for_loaders(self) -> None:
        await self._stood_by.wait()
        await look_for_loaders(self._settings, self._rules)


async def _hint_on_stop(stop: asyncio.Event, wakeups: WakeUps) -> None:
    await stop.wait()
    wakeups.hint()

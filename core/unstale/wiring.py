"""Builds the parts of one cache, starts them and closes them in order."""

import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from unstale.freshness.causes import Causes
from unstale.freshness.following import Following, LogFollowing, NothingFollowed
from unstale.freshness.invalidation_reasons import ReasonReader
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.subscriber import Subscriber
from unstale.freshness.subscriptions import Subscriptions
from unstale.freshness.tokens import TokenWaits
from unstale.freshness.trust import Freshness
from unstale.in_process.entry_point import embedded_worker
from unstale.in_process.outbox_feed import OutboxFeed
from unstale.in_process.outbox_following import OutboxFollowing
from unstale.locks import LocalLocks, Locks, RedisLocks
from unstale.near_cache.local_state import LocalState
from unstale.protocol.newest_fills import NewestFills
from unstale.reading.audit import Auditor
from unstale.reading.early_refresh import EarlyRefresh
from unstale.reading.traced import read_path
from unstale.redis_tier.cluster_tier import by_keys
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.log_reader import LogReader
from unstale.redis_tier.partition_count import check_partitions
from unstale.redis_tier.shared_tier import NoSharedTier, SharedTier
from unstale.redis_tier.tier import RedisTier
from unstale.reporting.content import Content
from unstale.reporting.reporter import Reporter
from unstale.runtime import clock
from unstale.sealing.sealer import sealer_of
from unstale.settings import AgentSettings
from unstale.writing.writer import Writer

logger = logging.getLogger("unstale")


class Parts:
    """The parts of one cache, for one event loop and one life.

    With Redis there are three connections: the subscription, the subscriber's own commands (a long replay
    does not delay readers), and everything that readers and writers ask.

    Attributes:
        local: The near cache, offline loads and reads in flight.
        freshness: Trust, epoch and staleness.
        tier: The shared tier.
        log: Reads the log; None without Redis.
        rules: The published rules.
        feed: The interface through which an embedded worker invalidates.
        following: The source of invalidations, which keeps `freshness` up to date.
        path: The read path.
        early: Early refresh.
        writer: ``get``, ``set``, ``delete`` and ``invalidate_pattern``.
        auditor: Compares cached values with their loaders.
        subscriptions: Open subscriptions; `Cache.subscribe` adds to them.
        tokens: ``wait_for``.
        locks: ``lock``.
        reporter: Sends reports about this cache; None without Redis, or if they are switched off.
        now: The clock of all parts, in seconds.

    ``now`` and ``tier``, which counts without Redis only, are for tests.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        now: Callable[[], float] | None = None,
        tier: SharedTier | None = None,
    ) -> None:
        now = clock.now if now is None else now
        self._name = settings.names.tag
        self.now = now
        self.subscriptions = Subscriptions(
            lambda: self.freshness.staleness, lambda: ReasonReader(self.freshness, self.log, self.rules)
        )
        causes = Causes(self.subscriptions) if settings.otel else None
        self.local = LocalState(
            max_entries=settings.near_max_entries,
            max_bytes=settings.near_max_bytes,
            clock=now,
            listener=causes or self.subscriptions,
        )
        self.freshness = Freshness(
            self.local, clock=now, max_silence=settings.max_silence, detached_ttl=settings.detached_ttl
        )
        self.tokens = TokenWaits(self.freshness)
        self._redis_tier: RedisTier | None = None
        self._home: Callable[[], Awaitable[None]] | None = None
        self.log: LogReader | None = None
        self.tier: SharedTier
        self.locks: Locks
        if settings.uses_redis:
            names = settings.names
            connections = Connections(
                settings.redis_url.get_secret_value(), timeout=settings.redis_timeout, tag=names.tag
            )
            self._redis_tier = RedisTier(
                connections,
                names,
                timeout=settings.redis_timeout,
                log_max_bytes=settings.log_max_bytes,
                clock=now,
            )
            self.tier = by_keys(self._redis_tier)
            if names.cluster and names == settings.in_partitions[0].names:
                self._home = partial(
                    check_partitions, settings.redis_url.get_secret_value(), settings.home,
                    settings.partitions, timeout=settings.redis_timeout,
                )  # fmt: skip
            self.log = LogReader(connections, names, timeout=settings.redis_timeout, clock=now)
            self.locks = RedisLocks(self._redis_tier, names, clock=now)
        else:
            self.tier = tier or NoSharedTier()
            self.locks = LocalLocks(clock=now)
        self.rules = KnownRules(
            self.tier,
            default_ttl=settings.default_ttl,
            jitter=settings.ttl_jitter,
            negative_ttl=settings.negative_ttl,
            detached_ttl=settings.detached_ttl,
            large_value=settings.large_value,
            max_value_bytes=settings.max_value_bytes,
            soft_timeout=settings.soft_timeout,
            stale_if_error=settings.stale_if_error,
        )
        self.feed = OutboxFeed(
            self.local, self.freshness, self.rules, clock=now, on_reached=self.tokens.settle
        )
        if self._redis_tier is not None and self.log is not None:
            self.following: Following = self._follow_log(settings, connections, self._redis_tier, self.log)
        else:
            self.following = self._follow_outbox(settings)
        if causes is not None:
            causes.follow(self.freshness, self.log)
        self.path = read_path(causes)(
            self.tier,
            self.local,
            self.freshness,
            self.rules,
            clock=now,
            lease_ttl=settings.lease_ttl,
            detached_ttl=settings.detached_ttl,
            newest_fills=NewestFills() if settings.report_interval else None,
            sealer=sealer_of(settings) if settings.uses_redis else None,
        )
        self.reporter = self._report(settings)
        self.early = EarlyRefresh(self.path, self.local, self.freshness, self.rules, clock=now)
        self.writer = Writer(
            self.tier,
            self.local,
            self.freshness,
            self.rules,
            self.path,
            clock=now,
            detached_ttl=settings.detached_ttl,
        )
        self.auditor = Auditor(
            self.local,
            self.freshness,
            self.rules,
            clock=now,
            share=settings.audit_share,
            patience=settings.max_silence,
            repair=lambda key: self.writer.delete([key], lsn=None),
        )

    async def start(self) -> None:
        """Start to follow, and wait briefly until the cache is attached; raises `ConfigurationError`."""
        if self._home is not None:
            await self._home()
        await self.following.start()
        if self.reporter is not None:
            self.reporter.start()

    async def close(self) -> None:
        """Close every part, even if closing another one fails."""
        async with contextlib.AsyncExitStack() as stack:  # the last one pushed is closed first
            stack.callback(self.local.flush)
            if self._redis_tier is not None:
                stack.push_async_callback(self._redis_tier.close)
            stack.callback(self.writer.close)
            stack.callback(self.subscriptions.close)
            stack.callback(self.tokens.close)
            stack.push_async_callback(self.path.flights.close)
            stack.push_async_callback(self.auditor.close)
            stack.push_async_callback(self.early.close)
            stack.push_async_callback(self.following.close)
            if self.reporter is not None:
                stack.push_async_callback(self.reporter.close)

    def _follow_log(
        self, settings: AgentSettings, connections: Connections, tier: RedisTier, log: LogReader
    ) -> LogFollowing:
        if settings.embedded_worker:
            logger.info(
                "the embedded worker is not used, because Redis is (REDIS_URL, REDIS_ENABLED); run "
                "`unstale worker`"
            )
        subscriber = Subscriber(
            connections,
            log,
            self.local,
            self.freshness,
            self.rules,
            clock=self.now,
            timeout=settings.redis_timeout,
            max_silence=settings.max_silence,
            on_subscribed=_renewing(tier, log),
            on_watermark=self.tokens.settle,
        )
        return LogFollowing(subscriber, log, self.freshness, timeout=settings.redis_timeout)

    def _report(self, settings: AgentSettings) -> Reporter | None:
        if self.log is None or not isinstance(self.following, LogFollowing) or not settings.report_interval:
            return None
        subscriber = self.following.subscriber
        content = Content(
            settings.agent_name or "",
            self.local,
            self.freshness,
            self.rules,
            self.path.newest_fills,
            clock=self.now,
        )
        return Reporter(
            self.log.multiplexer,
            settings.names,
            content,
            self.freshness,
            subscribed=lambda: subscriber.subscribed,
            interval=settings.report_interval,
        )

    def _follow_outbox(self, settings: AgentSettings) -> Following:
        if not settings.embedded_worker:
            return NothingFollowed(self.local)
        worker = embedded_worker(settings, self.feed)
        return OutboxFollowing(worker, self.freshness, timeout=settings.database_timeout)

    def __repr__(self) -> str:
        return f"<Parts {self._name}, {self.freshness!r}>"


def _renewing(tier: RedisTier, log: LogReader) -> Callable[[], None]:
    """Return a callback that makes both reconnect, so that they use the same server as the subscriber."""

    def renew() -> None:
        tier.multiplexer.renew()
        log.multiplexer.renew()

    return renew

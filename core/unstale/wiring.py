"""What one cache is made of, put together, started and taken down in order."""

import asyncio
import contextlib
import logging

from unstale.freshness.published_rules import Rulebook
from unstale.freshness.subscriber import Subscriber
from unstale.freshness.tokens import TokenWaits
from unstale.freshness.tracker import Follower
from unstale.in_process.entry_point import EmbeddedWorker, embedded_worker
from unstale.in_process.outbox_feed import Feed
from unstale.near_cache.local_state import NearTier
from unstale.near_cache.subscriptions import Events
from unstale.reading.audit import Auditor
from unstale.reading.early_refresh import Ahead
from unstale.reading.read_path import Reader
from unstale.reading.single_flight import Flights
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import Lane
from unstale.redis_tier.tier import RedisTier
from unstale.runtime import clock
from unstale.settings import AgentSettings
from unstale.writing.writer import Writer

logger = logging.getLogger("unstale")


class Assembly:
    """The parts of one cache; without Redis (``uses_redis`` is false) tier and subscriber are None.

    Without Redis an embedded worker may feed the near cache instead.

    Three connections: the subscription, the subscriber's own commands (a long replay holds no reader up),
    and everything that readers and writers ask.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._lanes: list[Lane] = []
        self._attached = asyncio.Event()
        self.near = NearTier(
            max_entries=settings.near_max_entries, max_bytes=settings.near_max_bytes, clock=clock.now
        )
        self.follower = Follower(
            self.near,
            clock=clock.now,
            max_silence=settings.max_silence,
            detached_ttl=settings.detached_ttl,
        )
        self.events = Events(lambda: self.follower.staleness)
        self.near.audience = self.events
        self.tokens = TokenWaits(self.follower)
        self.tier: RedisTier | None = None
        self.subscriber: Subscriber | None = None
        connections: Connections | None = None
        if settings.uses_redis:
            url = settings.redis_url.get_secret_value()
            connections = Connections(url, timeout=settings.redis_timeout)
            self.tier = self._new_tier(connections)
        self.rulebook = Rulebook(
            self.tier,
            default_ttl=settings.default_ttl,
            jitter=settings.ttl_jitter,
            negative_ttl=settings.negative_ttl,
        )
        if connections is not None:
            self.subscriber = self._new_subscriber(connections)
        self.embedded: EmbeddedWorker | None = None
        self.feed = self._new_feed()
        if settings.embedded_worker:
            if connections is None:
                self.embedded = embedded_worker(settings, self.feed)
            else:
                logger.info(
                    "no embedded worker, as there is Redis (REDIS_URL, REDIS_ENABLED); run `unstale worker`"
                )
        self.reader = Reader(
            self.tier,
            self.near,
            self.follower,
            self.rulebook,
            clock=clock.now,
            lease_ttl=settings.lease_ttl,
            detached_ttl=settings.detached_ttl,
        )
        self.writer = Writer(
            self.tier,
            self.near,
            self.follower,
            self.rulebook,
            self.reader,
            clock=clock.now,
            detached_ttl=settings.detached_ttl,
        )
        self.flights = Flights(self.reader.fetch, self.near.marks)
        self.auditor = Auditor(
            self.near,
            self.follower,
            self.rulebook,
            clock=clock.now,
            share=settings.audit_share,
            patience=settings.max_silence,
            repair=lambda key: self.writer.delete([key], lsn=None),
        )
        self.ahead = Ahead(self.tier, self.near, self.follower, self.rulebook, clock=clock.now)

    async def start(self) -> None:
        """Begin to follow; wait for the first watermark if one is likely, for at most ``redis_timeout``.

        An embedded worker's first attempt is waited for, for at most ``database_timeout``; raises the
        `ConfigurationError` that it may end with.
        """
        if self.embedded is not None:
            self.embedded.start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.database_timeout):
                    await self.embedded.tried.wait()
            if self.embedded.refused is not None:
                raise self.embedded.refused
        subscriber = self.subscriber
        if subscriber is None:
            return
        subscriber.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.redis_timeout):
                await subscriber.tried.wait()
                if subscriber.subscribed and self.follower.epoch is not None:
                    await self._attached.wait()

    async def close(self) -> None:
        """Stop everything; each part is stopped, whatever happens to the others."""
        async with contextlib.AsyncExitStack() as stack:  # the last one pushed goes first
            stack.callback(self.near.flush)
            for lane in self._lanes:
                stack.push_async_callback(lane.close)
            stack.callback(self.writer.close)
            stack.callback(self.events.close)
            stack.callback(self.tokens.close)
            stack.push_async_callback(self.flights.close)
            stack.push_async_callback(self.auditor.close)
            stack.push_async_callback(self.ahead.close)
            if self.subscriber is not None:
                stack.push_async_callback(self.subscriber.close)
            if self.embedded is not None:
                stack.push_async_callback(self.embedded.close)

    def _new_tier(self, connections: Connections) -> RedisTier:
        lane = Lane(connections, timeout=self._settings.redis_timeout, clock=clock.now)
        self._lanes.append(lane)
        return RedisTier(lane, self._settings.names, log_max_bytes=self._settings.log_max_bytes)

    def _new_feed(self) -> Feed:
        return Feed(self.near, self.follower, self.rulebook, clock=clock.now, on_reached=self._on_watermark)

    def _new_subscriber(self, connections: Connections) -> Subscriber:
        subscriber = Subscriber(
            connections,
            self._new_tier(connections),
            self.near,
            self.follower,
            self.rulebook,
            clock=clock.now,
            timeout=self._settings.redis_timeout,
            max_silence=self._settings.max_silence,
        )
        subscriber.on_subscribed = self._on_subscribed
        subscriber.on_watermark = self._on_watermark
        return subscriber

    def _on_subscribed(self) -> None:
        for lane in self._lanes:
            lane.renew()  # who follows a server's log reads there, too

    def _on_watermark(self) -> None:
        self._attached.set()
        self.tokens.settle()

    def __repr__(self) -> str:
        return f"<Assembly {self._settings.names.tag}, {self.follower!r}>"

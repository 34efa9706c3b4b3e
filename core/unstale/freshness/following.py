"""The interface between a cache and its source of invalidations: the log, the outbox, or none."""

import asyncio
import contextlib
from typing import Protocol

from unstale.errors import RedisUnavailable
from unstale.freshness.subscriber import Subscriber
from unstale.freshness.tokens import Token
from unstale.freshness.trust import Freshness
from unstale.near_cache.local_state import LocalState
from unstale.redis_tier.log_reader import LogReader


class Following(Protocol):
    """A source of invalidations that keeps `Freshness` up to date while it runs.

    Attributes:
        name: ``log``, ``outbox`` or ``nothing``.
    """

    @property
    def name(self) -> str: ...

    @property
    def replays(self) -> int:
        """Number of replays of the log."""

    @property
    def unreadable(self) -> int:
        """Number of messages and log entries that could not be decoded."""

    async def start(self) -> None:
        """Start to follow, and wait briefly until the cache is attached; raises `ConfigurationError`."""

    async def expect(self, token: Token) -> bool:
        """Prepare to wait for ``token``; return False if there is nothing to wait for.

        Raises ValueError for a token of another database.
        """
        ...

    async def close(self) -> None:
        """Stop following, and close every connection."""


class LogFollowing:
    """Follows the log in Redis."""

    name = "log"

    def __init__(
        self, subscriber: Subscriber, log: LogReader, freshness: Freshness, *, timeout: float
    ) -> None:
        self.subscriber = subscriber
        self._log = log
        self._freshness = freshness
        self._timeout = timeout

    @property
    def replays(self) -> int:
        """Number of replays, including the one of each connect."""
        return self.subscriber.replays

    @property
    def unreadable(self) -> int:
        """Number of messages and log entries that could not be decoded."""
        return self.subscriber.unreadable

    async def start(self) -> None:
        """Subscribe; wait at most ``timeout`` seconds for the first watermark, if one is likely."""
        subscriber = self.subscriber
        subscriber.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await subscriber.tried.wait()
                if subscriber.subscribed and self._freshness.epoch is not None:
                    await subscriber.attached.wait()

    async def expect(self, token: Token) -> bool:
        """Compare the token's database with the database that the position in Redis refers to."""
        with contextlib.suppress(RedisUnavailable):
            token.expect(await self._log.database())
        return True

    async def close(self) -> None:
        """Stop following, and close the connections."""
        await self.subscriber.close()
        await self._log.close()

    def __repr__(self) -> str:
        return f"<LogFollowing {self.subscriber!r}>"


class NothingFollowed:
    """Neither Redis nor an embedded worker: nothing is shared, and the cache is never attached."""

    name = "nothing"
    replays = 0
    unreadable = 0

    def __init__(self, local: LocalState) -> None:
        self._local = local

    async def start(self) -> None:
        """Do nothing."""

    async def expect(self, token: Token) -> bool:
        """Drop everything, so that nothing older than the token's transaction can be served."""
        self._local.flush()
        return False

    async def close(self) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return "<NothingFollowed>"

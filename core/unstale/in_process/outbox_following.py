"""Follows the outbox inside this process with an embedded worker."""

import asyncio
import contextlib

from unstale.freshness.tokens import Token
from unstale.freshness.trust import Freshness
from unstale.in_process.entry_point import EmbeddedWorker


class OutboxFollowing:
    """Makes an embedded worker the cache's source of invalidations; see `freshness.following.Following`."""

    name = "outbox"
    replays = 0
    unreadable = 0

    def __init__(self, worker: EmbeddedWorker, freshness: Freshness, *, timeout: float) -> None:
        self.worker = worker
        self._freshness = freshness
        self._timeout = timeout

    async def start(self) -> None:
        """Start the worker, and wait at most ``timeout`` seconds for its first attempt.

        Raises the `ConfigurationError` of that attempt, if there is one.
        """
        self.worker.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self.worker.tried.wait()
        if self.worker.refused is not None:
            raise self.worker.refused

    async def expect(self, token: Token) -> bool:
        """Compare the token's database with the followed one, and make the worker read at once."""
        if self._freshness.watermark is not None:
            token.expect(self._freshness.watermark.database)
        self.worker.hint()
        return True

    async def close(self) -> None:
        """Stop the worker."""
        await self.worker.close()

    def __repr__(self) -> str:
        return f"<OutboxFollowing {self.worker!r}>"

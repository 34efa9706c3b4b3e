"""Follows the outbox inside this process, by an embedded worker."""

import asyncio
import contextlib

from unstale.freshness.tokens import Token
from unstale.freshness.trust import Freshness
from unstale.in_process.entry_point import EmbeddedWorker


class OutboxFollowing:
    """An embedded worker as what a cache follows; see `unstale.freshness.following.Following`."""

    name = "outbox"
    replays = 0
    unreadable = 0

    def __init__(self, worker: EmbeddedWorker, freshness: Freshness, *, timeout: float) -> None:
        self.worker = worker
        self._freshness = freshness
        self._timeout = timeout

    async def start(self) -> None:
        """Start the worker; wait for its first attempt, for ``timeout`` seconds at most.

        Raises the `ConfigurationError` that the attempt may end with.
        """
        self.worker.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self.worker.tried.wait()
        if self.worker.refused is not None:
            raise self.worker.refused

    async def expect(self, token: Token) -> bool:
        """Compare the token's database with the followed one, and let the worker read at once."""
        if self._freshness.watermark is not None:
            token.expect(self._freshness.watermark.database)
        self.worker.hint()
        return True

    async def close(self) -> None:
        """Stop the worker."""
        await self.worker.close()

    def __repr__(self) -> str:
        return f"<OutboxFollowing {self.worker!r}>"

"""Which refresh workers are there: while one is, the leader calls no Python loader itself."""

from typing import Final

from unstale.redis_tier.scripts import Script
from unstale_worker.refresh.redis.calls import RedisCalls, milliseconds

ANNOUNCE: Final = Script("unstale_worker.refresh.redis", "refresh_announce")

ANNOUNCE_EVERY: Final = 1.0
"""Seconds between two announcements of a refresh worker."""
SILENT_FOR: Final = 5.0
"""Seconds after which a silent refresh worker does not count any more: four announcements may be lost."""


class Presence(RedisCalls):
    """The refresh workers of one namespace; every method raises `RedisUnavailable`.

    Example:
        >>> await presence.announce("host#4711#9f3a")
        >>> await presence.any()
        True
    """

    async def announce(self, name: str) -> None:
        """Count this refresh worker in for `SILENT_FOR` seconds."""
        await self._run(ANNOUNCE, [self._names.refresh_workers], [name, milliseconds(SILENT_FOR)])

    async def withdraw(self, name: str) -> None:
        """Count it out at once."""
        await self._command("ZREM", self._names.refresh_workers, name)

    async def any(self) -> bool:
        """Return True if a refresh worker was heard of lately."""
        return bool(await self._command("EXISTS", self._names.refresh_workers))

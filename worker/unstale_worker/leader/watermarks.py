"""Decides when a leader publishes a watermark, and knows what the next one may say."""

import math
import time
from typing import Final

from unstale_worker.observe.status import WorkerCounters
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import Seen, StoredState

SPACING: Final = 0.005
"""Seconds between two watermarks under load: each costs every agent a message."""
SPACING_ELSEWHERE: Final = 0.05
"""The same in a partition that a change does not concern: only ``wait_for`` waits for it."""


class Watermarks:
    """Publishes soon after a change was applied, and otherwise at a steady interval.

    Attributes:
        interval: Seconds between two watermarks while nothing changes.
        seen: The newest read that is applied as a whole; None before the first.
        primary_until: What stood in the state at Redis' newest reply.

    Example:
        >>> watermarks = Watermarks(applier, counters, interval=0.5)
        >>> watermarks.seen = seen
        >>> await watermarks.publish_if_due(state)
    """

    def __init__(self, applier: Applier, counters: WorkerCounters, *, interval: float) -> None:
        self._applier, self._counters, self.interval = applier, counters, interval
        self._published_at = 0.0
        self._spacing = math.inf
        self.seen: Seen | None = None
        self.primary_until = ""

    def __repr__(self) -> str:
        return f"<Watermarks due_in={self.due_in():.3f}>"

    def due_in(self) -> float:
        """Return the seconds until the next watermark is due."""
        return max(0.0, self._published_at + min(self._spacing, self.interval) - time.monotonic())

    def may_join(self) -> bool:
        """Return True if a batch's last script may publish one as well: the last one is not too recent."""
        return time.monotonic() - self._published_at >= SPACING

    def change_applied(self, *, elsewhere: bool = False) -> None:
        """Publish sooner: a change was applied, here or ``elsewhere``, and agents wait to hear of it."""
        self._spacing = min(self._spacing, SPACING_ELSEWHERE if elsewhere else SPACING)

    def published(self, at: float, primary_until: str) -> None:
        """Note that one was published at ``at`` (monotonic seconds), with Redis' reply."""
        self._published_at, self._spacing, self.primary_until = at, math.inf, primary_until
        self._counters.watermark_published(at)

    async def publish_if_due(self, state: StoredState) -> None:
        """Publish what is applied as a whole, if it is time."""
        if self.due_in() == 0:
            await self._publish(state)

    async def publish_between_pages(self, state: StoredState) -> None:
        """Repeat the watermark of the last batch while a long one goes on, so that agents stay attached."""
        if time.monotonic() - self._published_at >= self.interval:
            await self._publish(state)

    async def _publish(self, state: StoredState) -> None:
        if self.seen is not None:
            at = time.monotonic()
            self.published(at, await self._applier.watermark(state, self.seen))

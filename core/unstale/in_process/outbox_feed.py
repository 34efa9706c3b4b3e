"""Feeds the cache of one process from changes that the process reads itself: no Redis, no messages."""

import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from unstale.freshness.published_rules import KnownRules
from unstale.freshness.trust import Freshness
from unstale.near_cache.local_state import LocalState
from unstale.protocol.messages import Invalidation, PublishedRules, Snapshot, Watermark
from unstale.protocol.names import Epoch, LogId

MOST_RECENT: Final = 20
"""Changes remembered for `OutboxFeed.recent`."""
MOST_KEYS: Final = 1_000
"""Keys of one remembered change; one with more is remembered as the pattern ``*``."""


class OutboxFeed:
    """The seam through which an `EmbeddedWorker` invalidates the cache of its process.

    The order is the protocol: `restart` after a snapshot was read, `drop` before the position moves past what
    is dropped, `reached` after everything a read found was dropped. All of it happens in the event loop of
    the cache, so no read can come between.
    """

    def __init__(
        self,
        local: LocalState,
        freshness: Freshness,
        rules: KnownRules,
        *,
        clock: Callable[[], float],
        on_reached: Callable[[], object],
    ) -> None:
        self._local, self._freshness, self._published = local, freshness, rules
        self._on_reached = on_reached
        self.now = clock
        """The clock, in seconds, on which `reached` expects the start of a read."""
        self.recent: deque[Invalidation] = deque(maxlen=MOST_RECENT)
        """The newest changes, oldest first: what the log holds where there is one."""
        self._epoch = Epoch("")
        self._rules = ""

    def restart(self, rules: PublishedRules) -> None:
        """Begin a history at a snapshot that was read before: drop everything, also for reads in flight."""
        self._published.adopt(rules)
        self.recent.clear()
        self._epoch, self._rules = Epoch(secrets.token_hex(16)), rules.hash
        self._freshness.adopted(self._epoch, LogId(0))

    def drop(self, keys: Iterable[str], patterns: Iterable[str]) -> None:
        """Invalidate these keys, and those that match these globs."""
        keys, patterns = tuple(keys), tuple(patterns)
        self._local.drop(keys, patterns)
        before = self._freshness.last
        self._freshness.advanced(LogId(before + 1))
        if len(keys) > MOST_KEYS:
            keys, patterns = (), ("*",)
        self.recent.append(Invalidation(self._epoch, self._freshness.last, before, keys, patterns))

    def reached(self, began: float, *, seen: Snapshot, lsn: str, flushed: str, database: str) -> None:
        """Record that everything in ``seen``, from a read that began at ``began`` on `now`, was dropped."""
        mark = Watermark(
            self._epoch, self._freshness.last, seen, lsn, self._rules, 0.0, flushed=flushed, database=database
        )
        self._freshness.caught_up(mark, as_of=began)
        self._on_reached()

    def lost(self) -> None:
        """Trust nothing until the next `restart`: the position is lost."""
        self._freshness.adopted(None, self._freshness.last)

    def __repr__(self) -> str:
        return f"<OutboxFeed {self._freshness!r}>"

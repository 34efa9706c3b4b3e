"""Applies changes that the process reads itself to its own cache: no Redis, no messages."""

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
"""Changes kept in `OutboxFeed.recent`."""
MOST_KEYS: Final = 1_000
"""Most keys of one kept change; a change with more is kept as the pattern ``*``."""


class OutboxFeed:
    """The interface through which an `EmbeddedWorker` invalidates the cache of its process.

    The worker must keep this order: `restart` after it has read a snapshot, `drop` before the position moves
    past the dropped changes, `reached` after it has dropped everything that a read found. All calls are made
    in the event loop of the cache, so no read of the cache can come between.
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
        """The newest changes, oldest first; with Redis, the log holds them."""
        self._epoch = Epoch("")
        self._rules = ""

    def restart(self, rules: PublishedRules) -> None:
        """Begin a new epoch at a snapshot read before: drop everything and invalidate reads in flight."""
        self._published.adopt(rules)
        self.recent.clear()
        self._epoch, self._rules = Epoch(secrets.token_hex(16)), rules.hash
        self._freshness.adopted(self._epoch, LogId(0))

    def drop(self, keys: Iterable[str], patterns: Iterable[str]) -> None:
        """Invalidate these keys, and all keys that match these globs."""
        keys, patterns = tuple(keys), tuple(patterns)
        self._local.drop(keys, patterns)
        before = self._freshness.last
        self._freshness.advanced(LogId(before + 1))
        if len(keys) > MOST_KEYS:
            keys, patterns = (), ("*",)
        self.recent.append(Invalidation(self._epoch, self._freshness.last, before, keys, patterns))

    def reached(self, began: float, *, seen: Snapshot, lsn: str, flushed: str, database: str) -> None:
        """Record that everything in ``seen`` was dropped; its read began at ``began``, measured by `now`."""
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

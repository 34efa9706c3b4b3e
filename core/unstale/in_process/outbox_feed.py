"""Feeds the caches of one process from changes that it reads itself: no Redis, no messages."""

import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from unstale.freshness.published_rules import Rulebook
from unstale.freshness.tracker import Follower
from unstale.near_cache.local_state import NearTier
from unstale.protocol.messages import Invalidation, PublishedRules, Snapshot, Watermark
from unstale.protocol.names import Epoch, LogId

MOST_RECENT: Final = 20
"""Changes remembered for `Feed.recent`."""
MOST_KEYS: Final = 1_000
"""Keys of one of them; one with more is remembered as the pattern ``*``."""


class Feed:
    """What an `EmbeddedWorker` does to the caches of its process.

    The order is the protocol: `restart` after a snapshot was read, `drop` before the position moves past what
    is dropped, `reached` after everything a read found was dropped. All of it happens in the event loop of
    the cache, so no read can come between.
    """

    def __init__(
        self,
        near: NearTier,
        follower: Follower,
        rulebook: Rulebook,
        *,
        clock: Callable[[], float],
        on_reached: Callable[[], object],
    ) -> None:
        self._near, self._follower, self._rulebook = near, follower, rulebook
        self._on_reached = on_reached
        self.now = clock
        """The clock that `reached` wants the beginning of a read by, in seconds."""
        self.recent: deque[Invalidation] = deque(maxlen=MOST_RECENT)
        """The newest changes, oldest first: what the log tells where there is one."""
        self._epoch = Epoch("")
        self._rules = ""

    def restart(self, rules: PublishedRules) -> None:
        """Begin a history at a snapshot that was read before: drop everything, mark every read in flight."""
        self._rulebook.adopt(rules)
        self.recent.clear()
        self._epoch, self._rules = Epoch(secrets.token_hex(16)), rules.hash
        self._follower.adopt(self._epoch, LogId(0))

    def drop(self, keys: Iterable[str], patterns: Iterable[str]) -> None:
        """These keys, and those that match these globs, changed."""
        keys, patterns = tuple(keys), tuple(patterns)
        self._near.drop(keys, patterns)
        before = self._follower.last
        self._follower.last = LogId(before + 1)
        if len(keys) > MOST_KEYS:
            keys, patterns = (), ("*",)
        self.recent.append(Invalidation(self._epoch, self._follower.last, before, keys, patterns))

    def reached(self, began: float, *, seen: Snapshot, lsn: str, flushed: str, database: str) -> None:
        """Everything in ``seen``, read by a read that began at ``began`` on `now`, was dropped."""
        mark = Watermark(
            self._epoch, self._follower.last, seen, lsn, self._rules, 0.0, flushed=flushed, database=database
        )
        self._follower.caught_up(mark, as_of=began)
        self._on_reached()

    def lost(self) -> None:
        """The position is worth nothing any more: trust nothing until the next `restart`."""
        self._follower.adopt(None, self._follower.last)

    def __repr__(self) -> str:
        return f"<Feed {self._follower!r}>"

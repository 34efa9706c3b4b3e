"""Near hits in the thread of the caller, without a hop to the event loop.

Only the loop's thread changes the near cache and trust. Other threads read them here, without a lock. That is
safe because each step is one atomic read under the GIL, and because of their order:

1. read ``trusted_until``, a float;
2. look the key up: one ``dict.get`` with a text, which runs no Python code;
3. read the clock, compare it with the first step's float and with the entry's end, which never changes;
4. decode the entry's bytes, which never change either.

The lookup is the moment of the read. An invalidation that was processed before it has removed the entry, so
what this process has processed an invalidation of is never served. ``delete`` and ``wait_for`` return after
the loop's thread has removed the entries, so no later lookup of any thread finds them. An invalidation that
is processed after the lookup is the same as one that is processed after a hit was answered.

Trust is read *before* the lookup, because a thread may be paused between the two. The float says: everything
published before the PING at ``trusted_until - max_silence`` was processed here. Since then entries were only
removed, or stored while attached. So until that moment on the clock, what the lookup finds is within the
bound, also if the connection was lost meanwhile. In the other order the lookup could find an entry while this
process is detached, and then trust it by the watermark of a later connection, whose replay has removed that
entry. A new epoch flushes all entries before anything of it is trusted. A lookup after the flush finds
nothing, or a value that was stored while the new epoch was trusted.

The one thing written is `Entry.used`, a hint for eviction. Hits are counted by `AtomicCount`. The loop's
thread stores the shared frozen object, because that also counts bytes. Python without a GIL promises less, so
there each read asks the loop.
"""

import sys
from collections.abc import Callable

from unstale.near_cache.near_store import Entry
from unstale.wiring import Parts


def gil_enabled() -> bool:
    """Return True if one thread at a time runs Python code."""
    ask: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)  # from Python 3.13 on
    return ask is None or ask()


class NearHits:
    """Finds entries that may be served now; any thread may ask."""

    __slots__ = ("_freshness", "_now", "_peek", "_tallies")

    def __init__(self, parts: Parts) -> None:
        self._freshness, self._now = parts.freshness, parts.now
        # With an audit every read takes the long way, which knows the loader of what it returns.
        usable = gil_enabled() and not parts.auditor.share
        self._peek: Callable[[str], Entry | None] = parts.local.near.peek if usable else _nothing
        self._tallies = parts.rules.tallies

    def find(self, key: str) -> Entry | None:
        """Return the near entry of ``key`` if it may be served now. The caller counts the hit."""
        trusted_until = self._freshness.trusted_until  # before the lookup: see above
        entry = self._peek(key)
        if entry is None:
            return None
        now = self._now()
        if now < trusted_until and now < entry.expires:
            entry.used = True
            return entry
        return None

    @property
    def hits(self) -> int:
        """Hits counted so far."""
        return sum(tally.thread_hits.value for tally in self._tallies.all)

    def __repr__(self) -> str:
        return f"<NearHits {self.hits}>"


def _nothing(_key: str) -> Entry | None:
    return None

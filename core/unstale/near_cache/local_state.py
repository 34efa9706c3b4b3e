"""The local state of one process: near cache, offline values and reads in flight. Pure: no I/O."""

from collections.abc import Callable, Iterable
from typing import Protocol

from unstale.near_cache.in_flight import InFlightRead, InFlightReads
from unstale.near_cache.near_store import NearStore
from unstale.near_cache.tallies import UNCOUNTED, Tally
from unstale.protocol.names import TAG


class Listener(Protocol):
    """Receives invalidations."""

    def dropped(self, keys: tuple[str, ...], patterns: tuple[str, ...]) -> None:
        """Handle the invalidation of these keys, and of all keys that match these patterns."""

    def reset(self) -> None:
        """Handle a flush: anything may have changed."""


class LocalState:
    """The near cache, and everything else in the process that an invalidation affects.

    Attributes:
        near: Values stored while attached; served only while attached.
        offline: Values loaded while detached; served only while detached.
        in_flight: Reads in flight.
        invalidations: Calls of `drop`.
        flushes: Calls of `flush`.
    """

    __slots__ = ("_clock", "_listener", "flushes", "in_flight", "invalidations", "near", "offline")

    def __init__(
        self,
        *,
        max_entries: int,
        max_bytes: int,
        clock: Callable[[], float],
        listener: Listener | None = None,
    ) -> None:
        self.near = NearStore(max_entries=max_entries, max_bytes=max_bytes, clock=clock)
        self.offline = NearStore(max_entries=max_entries, max_bytes=max_bytes, clock=clock)
        self.in_flight = InFlightReads()
        self.invalidations = 0
        self.flushes = 0
        self._clock = clock
        self._listener = listener

    def keep(
        self,
        read: InFlightRead,
        data: bytes,
        seconds: float,
        trusted_until: float,
        tally: Tally = UNCOUNTED,
    ) -> None:
        """Store a value in the near cache if it is attached and ``read`` was not invalidated.

        Its hits are counted in ``tally``.
        """
        now = self._clock()
        if read.valid and now < trusted_until:
            self.near.put(read.key, data, now + seconds, read.tags, tally)

    def keep_offline(self, read: InFlightRead, data: bytes, *, seconds: float) -> None:
        """Store a value for reads while detached, if ``read`` was not invalidated."""
        if read.valid:
            self.offline.put(read.key, data, expires=self._clock() + seconds, tags=read.tags)

    def drop(self, keys: Iterable[str], patterns: Iterable[str] = ()) -> int:
        """Remove keys and the matches of patterns, and invalidate their reads; return how many were held.

        The key of a tag's record stands for all values that have the tag.
        """
        keys, patterns = tuple(keys), tuple(patterns)
        held = 0
        for key in keys:
            held += self.near.drop(key) + self.offline.drop(key)
            self.in_flight.invalidate(key)
            if key.startswith(TAG):
                tag = key[len(TAG) :]
                held += self.near.drop_tag(tag) + self.offline.drop_tag(tag)
                self.in_flight.invalidate_tag(tag)
        if patterns:
            held += self.near.drop_matching(patterns) + self.offline.drop_matching(patterns)
            self.in_flight.invalidate_matching(patterns)
        self.invalidations += 1
        if self._listener is not None and (keys or patterns):
            self._listener.dropped(keys, patterns)
        return held

    def flush(self) -> None:
        """Remove everything, and invalidate every read in flight."""
        self.near.clear()
        self.offline.clear()
        self.in_flight.invalidate_all()
        self.flushes += 1
        if self._listener is not None:
            self._listener.reset()

    def __repr__(self) -> str:
        return f"<LocalState {self.near!r}, {len(self.offline)} offline, {len(self.in_flight)} in flight>"

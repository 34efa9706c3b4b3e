"""Everything one process remembers: followed copies, its own loads while detached, and in-flight marks."""

import math
from collections.abc import Callable, Iterable
from typing import Protocol

from unstale.near_cache.in_flight import Marks
from unstale.near_cache.store import NearCache


class Audience(Protocol):
    """Who is told what was dropped."""

    def dropped(self, keys: tuple[str, ...], patterns: tuple[str, ...]) -> None:
        """These keys, and those that match these patterns, were invalidated."""

    def reset(self) -> None:
        """Everything may have changed."""


class NearTier:
    """The near cache and what has to be dropped together with it.

    Attributes:
        followed: Values that an invalidation would reach; served while attached.
        adrift: Values this process loaded while neither tier could be trusted; served only then.
        marks: Reads in flight.
    """

    __slots__ = ("adrift", "audience", "flushes", "followed", "invalidations", "marks")

    def __init__(self, *, max_entries: int, max_bytes: int, clock: Callable[[], float]) -> None:
        self.followed = NearCache(max_entries=max_entries, max_bytes=max_bytes, clock=clock)
        self.adrift = NearCache(max_entries=max_entries, max_bytes=max_bytes, clock=clock)
        self.adrift.trusted_until = float("inf")
        self.marks = Marks()
        self.audience: Audience | None = None
        self.invalidations = 0
        self.flushes = 0

    def drop(self, keys: Iterable[str], patterns: Iterable[str] = (), *, by: float = math.inf) -> None:
        """Forget keys and patterns, and mark the reads of them that are in flight.

        ``by`` is the log id of the message that says so, if there is one: what this process itself put under
        that id or a later one stays, as the message is the echo of it or older.
        """
        keys, patterns = tuple(keys), tuple(patterns)
        for key in keys:
            self.followed.drop(key)
            self.adrift.drop(key, before=by)
            self.marks.soil(key, by)
        if patterns:
            self.followed.drop_matching(patterns)
            self.adrift.drop_matching(patterns, before=by)
            self.marks.soil_matching(patterns, by)
        self.invalidations += 1
        if self.audience is not None and (keys or patterns):
            self.audience.dropped(keys, patterns)

    def flush(self) -> None:
        """Forget everything, and mark every read in flight."""
        self.followed.clear()
        self.adrift.clear()
        self.marks.soil_all()
        self.flushes += 1
        if self.audience is not None:
            self.audience.reset()

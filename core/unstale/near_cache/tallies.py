"""Counts of reads, loads and fills by key pattern. Pure: no I/O.

A near hit adds one to the tally that its entry refers to, so counting by pattern costs a hit nothing beside
the counting. All other reads look their tally up together with the rules of the key.
"""

import itertools
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Final

MOST_PATTERNS: Final = 500
"""Patterns of rules that are counted each; the others share one tally."""
MOST_SHAPES: Final = 32
"""Shapes of keys without an owner that are counted each; the others share one tally."""
OTHERS: Final = "(others)"
"""Name of the tally that the others share."""
LONGEST_WORD: Final = 32
LONGEST_SHAPE: Final = 120

_WORD: Final = re.compile(r"[A-Za-z][A-Za-z_-]*")
_PARTS: Final = re.compile(r"([:/|])")


class AtomicCount:
    """A number to which many threads may add one; ``+= 1`` would lose counts."""

    __slots__ = ("_counter", "_lock", "_looks", "add")

    def __init__(self) -> None:
        self._counter = itertools.count()
        self._lock = threading.Lock()
        self._looks = 0
        self.add: Final = self._counter.__next__  # atomic under the GIL

    @property
    def value(self) -> int:
        """The number so far."""
        with self._lock:
            # Reading the counter counts, too, so those reads are subtracted.
            value = next(self._counter) - self._looks
            self._looks += 1
            return value


class Tally:
    """Counts of the keys of one pattern, or of one shape.

    Attributes:
        name: The pattern, the shape, or `OTHERS`.
        example: A key without an owner that has this shape; '' for a pattern of the rules.
        meant: The pattern of which such a key is probably a misspelling; '' if there is none.
        former: The pattern by which a rule owned such a key until lately; '' if there is none.
        near_hits: Reads answered from memory by the event loop's thread.
        thread_hits: The same by other threads.
        redis_hits: Reads answered from Redis.
        stale_hits: Reads answered with the value from before a change.
        slow_hits: Reads answered with a spare value because the load was slow.
        failed_hits: Reads answered with a spare value because the load failed.
        misses: Reads that no cache answered.
        loads: Loads for a waiting caller.
        early_loads: Loads in the background.
        load_seconds: Time that loads of both kinds took, also those that failed.
        longest_load: The longest of them.
        fills: Values stored in Redis under a lease.
        fills_refused: Values not stored.
        unowned_loads: Loads whose key no rule owned, nor any of its tags.
        tagged: True if a rule owned a tag of such a key.
    """

    __slots__ = (
        "early_loads", "example", "failed_hits", "fills", "fills_refused", "former", "load_seconds", "loads",
        "longest_load", "meant", "misses", "name", "near_hits", "redis_hits", "slow_hits", "stale_hits",
        "tagged", "thread_hits", "unowned_loads",
    )  # fmt: skip

    def __init__(self, name: str, example: str = "") -> None:
        self.name = name
        self.example = example
        self.meant = self.former = ""
        self.near_hits = self.redis_hits = self.stale_hits = self.misses = 0
        self.slow_hits = self.failed_hits = 0
        self.loads = self.early_loads = self.fills = self.fills_refused = self.unowned_loads = 0
        self.tagged = False
        self.load_seconds = self.longest_load = 0.0
        self.thread_hits = AtomicCount()

    def load_begins(self, *, early: bool) -> None:
        """Count one load."""
        if early:
            self.early_loads += 1
        else:
            self.loads += 1

    def load_ended(self, seconds: float) -> None:
        """Add the time that a load took."""
        self.load_seconds += seconds
        if seconds > self.longest_load:
            self.longest_load = seconds

    def __repr__(self) -> str:
        return f"<Tally {self.name}: {self.loads} loads, {self.misses} misses>"


UNCOUNTED: Final = Tally("uncounted")
"""The tally of what is not counted by pattern: the records of tags, and entries that tests store."""


class Tallies:
    """All tallies of one process, bounded in number."""

    __slots__ = ("_other_patterns", "_other_shapes", "_patterns", "_shapes")

    def __init__(self) -> None:
        self._patterns: dict[str, Tally] = {}
        self._shapes: dict[str, Tally] = {}
        self._other_patterns = Tally(OTHERS)
        self._other_shapes = Tally(OTHERS, OTHERS)

    def of_pattern(self, pattern: str) -> Tally:
        """Return the tally of a pattern of the rules."""
        return _of(self._patterns, pattern, "", MOST_PATTERNS, self._other_patterns)

    def of_shape(self, key: str) -> Tally:
        """Return the tally of the shape of a key that no rule owns."""
        return _of(self._shapes, key_shape(key), key, MOST_SHAPES, self._other_shapes)

    @property
    def patterns(self) -> Iterator[Tally]:
        """The tallies of patterns of the rules, of earlier rules too; the shared one last."""
        return itertools.chain(tuple(self._patterns.values()), (self._other_patterns,))

    @property
    def shapes(self) -> Iterator[Tally]:
        """The tallies of keys that no rule owned when they were counted; the shared one last."""
        return itertools.chain(tuple(self._shapes.values()), (self._other_shapes,))

    @property
    def all(self) -> Iterable[Tally]:
        """Every tally."""
        return itertools.chain(self.patterns, self.shapes)

    def __repr__(self) -> str:
        return f"<Tallies {len(self._patterns)} patterns, {len(self._shapes)} shapes>"


def key_shape(key: str) -> str:
    """Return a key without the parts that tell one key from another: words stay, the rest becomes ``*``.

    Example:
        >>> key_shape("user:42:profil")
        'user:*:profil'
    """
    parts = _PARTS.split(key[: LONGEST_SHAPE * 4])
    words = (
        part if (len(part) <= LONGEST_WORD and _WORD.fullmatch(part)) or part in (":", "/", "|", "") else "*"
        for part in parts
    )
    return "".join(words)[:LONGEST_SHAPE]


def _of(known: dict[str, Tally], name: str, example: str, most: int, others: Tally) -> Tally:
    found = known.get(name)
    if found is None:
        if len(known) >= most:
            return others
        found = known[name] = Tally(name, example)
    return found

"""The options of one read, in one object, and what a read returns."""

from enum import Enum
from typing import Final, NamedTuple

MAX_TTL: Final = 10 * 365 * 86_400.0
"""Longest time to live in seconds: ten years."""


class ReadOptions(NamedTuple):
    """What a caller asks of one read. Immutable; a tuple, as a frozen dataclass costs 1 µs a read.

    Attributes:
        ttl: Seconds the value may live; None: what the rules and settings say.
        negative_ttl: Seconds a value that is None may live at most; None: what the settings say.
        max_staleness: The caches may answer only if `Cache.staleness` is at most this many seconds.
        fresh: No cache may answer.
        refresh_ahead: Share of the value's life in which it is refreshed early; 0: never.
    """

    ttl: float | None = None
    negative_ttl: float | None = None
    max_staleness: float | None = None
    fresh: bool = False
    refresh_ahead: float = 0.0

    @property
    def allows_stale(self) -> bool:
        """True if a value that a rule's ``serve_stale`` keeps may answer."""
        return self.max_staleness is None and not self.fresh


DEFAULT: Final = ReadOptions()


class Origin(Enum):
    """Where a value came from."""

    MEMORY = "memory"
    REDIS = "redis"
    STALE = "stale"
    """From Redis: the value that was true until the last change, while the rule's ``serve_stale`` allows."""
    LOADER = "loader"


class ReadResult(NamedTuple):
    """The JSON of a value that was read, and where it came from.

    A tuple, as there is one for each read that memory did not answer, and a frozen dataclass costs 1 µs.
    """

    data: bytes
    origin: Origin


def check_ttl(ttl: float | None, *, name: str = "ttl") -> None:
    """Raise ValueError, or TypeError if it is not a number, for a time to live out of range."""
    if ttl is None:
        return
    number = isinstance(ttl, int | float) and not isinstance(ttl, bool)
    if not number or not 0.001 <= ttl <= MAX_TTL:
        error = ValueError if number else TypeError
        raise error(f"{name} is {ttl!r}: expected seconds from 0.001 to {MAX_TTL:g}, or None")

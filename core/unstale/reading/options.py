"""The options of a read, and the arguments that callers give them by."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, NamedTuple, TypedDict

from unstale.protocol.durations import seconds_of

MAX_TTL: Final = 10 * 365 * 86_400.0
"""Longest time to live in seconds: ten years."""


class _Arguments(TypedDict, total=False):
    ttl: float | None
    negative_ttl: float | None
    max_staleness: float | None
    soft_timeout: float | str | None
    stale_if_error: float | str | None


class ManyArguments(_Arguments, total=False):
    """Keyword arguments of `Cache.get_many`, except ``model``; `Cache.get_or_load` explains them."""

    tags: Collection[str] | Callable[[str], Collection[str]] | None


class LoadArguments(_Arguments, total=False):
    """Keyword arguments of `Cache.get_or_load`, except ``model``."""

    tags: Collection[str] | None
    fresh: bool
    shared: bool
    refresh_ahead: float


class GetArguments(TypedDict, total=False):
    """Keyword arguments of `Cache.get`, except ``model``."""

    default: Any
    tags: Collection[str] | None
    max_staleness: float | None
    fresh: bool
    shared: bool


class ReadOptions(NamedTuple):
    """The options of one read. A tuple, because a frozen dataclass costs 1 µs more per read.

    Attributes:
        ttl: Seconds the value may live; None: as the rules and settings say.
        negative_ttl: Seconds a value that is None may live at most; None: as the settings say.
        max_staleness: The caches may answer only if `Cache.staleness` is at most this many seconds.
        fresh: True if no cache may answer.
        refresh_ahead: Last share of the value's life, in which it is refreshed early; 0: never.
        model: Model that readers validate into; a loaded value must be read back equal by it.
        tags: Tags of the value, sorted: a loaded value is stored under them, and a cached one must have them.
        soft_timeout: Seconds of the load after which an older value is answered; None: as the rules say.
        stale_if_error: Most seconds since an older value was current; 0: none; None: as the rules say.
    """

    ttl: float | None = None
    negative_ttl: float | None = None
    max_staleness: float | None = None
    fresh: bool = False
    refresh_ahead: float = 0.0
    model: Any = None
    tags: tuple[str, ...] = ()
    soft_timeout: float | None = None
    stale_if_error: float | None = None

    @property
    def allows_stale(self) -> bool:
        """True if the read may return an older value, as a rule or the caller allows."""
        return self.max_staleness is None and not self.fresh


DEFAULT: Final = ReadOptions()


def distinct_keys(keys: Iterable[str]) -> list[str]:
    """Return each key once, in order; raises TypeError for one text, whose letters would be the keys."""
    if isinstance(keys, str | bytes):
        raise TypeError(f"keys is the text {keys!r}; expected several keys, such as [{keys!r}]")
    return list(dict.fromkeys(keys))


def check_ttl(ttl: float | None, *, name: str = "ttl") -> None:
    """Raise ValueError for a TTL out of range, or TypeError if it is not a number."""
    if ttl is None:
        return
    number = isinstance(ttl, int | float) and not isinstance(ttl, bool)
    if not number or not 0.001 <= ttl <= MAX_TTL:
        error = ValueError if number else TypeError
        raise error(f"{name} is {ttl!r}: expected seconds from 0.001 to {MAX_TTL:g}, or None")


def checked_seconds(value: float | str | None, *, name: str, zero: bool) -> float | None:
    """Return an option in seconds, given as a number or a text like "1h"; None stays None.

    Raises ValueError for one out of range, or TypeError if it is neither.
    """
    if value is None:
        return None
    seconds = seconds_of(value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{name} is {value!r}: expected seconds, or a text like '1h'")
    if seconds is None or not (0 if zero else 0.001) <= seconds <= MAX_TTL:
        least = "0 (never)" if zero else "0.001"
        raise ValueError(f"{name} is {value!r}: expected seconds from {least} to {MAX_TTL:g}, or '1h30m'")
    return float(seconds)

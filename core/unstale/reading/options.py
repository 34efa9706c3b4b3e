"""The options of a read, and the arguments that callers give them by."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, NamedTuple, TypedDict

from unstale.protocol.durations import Duration, in_seconds

LEAST_TTL: Final = 0.001
"""Shortest time to live in seconds: Redis counts milliseconds."""


class _Arguments(TypedDict, total=False):
    ttl: Duration | None
    negative_ttl: Duration | None
    max_staleness: Duration | None
    soft_timeout: Duration | None
    stale_if_error: Duration | None


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
    max_staleness: Duration | None
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


def checked_options(
    *,
    ttl: Duration | None,
    negative_ttl: Duration | None,
    max_staleness: Duration | None = None,
    soft_timeout: Duration | None = None,
    stale_if_error: Duration | None = None,
    **others: Any,
) -> ReadOptions:
    """Return the options of a read, with durations in seconds; raises as `in_seconds` does."""
    return ReadOptions(
        ttl=in_seconds(ttl, name="ttl", least=LEAST_TTL),
        negative_ttl=in_seconds(negative_ttl, name="negative_ttl", least=LEAST_TTL),
        max_staleness=in_seconds(max_staleness, name="max_staleness", least=0),
        soft_timeout=in_seconds(soft_timeout, name="soft_timeout", least=LEAST_TTL),
        stale_if_error=in_seconds(stale_if_error, name="stale_if_error", least=0),
        **others,
    )

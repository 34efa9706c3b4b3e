"""Tell callers which of their reads were answered with an older value."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Reason: TypeAlias = Literal["serve_stale", "soft_timeout", "stale_if_error"]


@dataclass(frozen=True, slots=True)
class StaleAnswer:
    """One read that was answered with an older value.

    Attributes:
        key: The key.
        reason: The option that allowed it.
        age: Seconds since the value was current at the latest; None if that was not asked (``serve_stale``).
    """

    key: str
    reason: Reason
    age: float | None


_noted: Final[ContextVar[list[StaleAnswer] | None]] = ContextVar("unstale_stale_answers", default=None)


@contextmanager
def stale_answers() -> Iterator[list[StaleAnswer]]:
    """Collect the older values that reads inside the block are answered with; other reads cost nothing more.

    Example:
        >>> with stale_answers() as older:
        ...     greeting = await cache.get_or_load(key, load, stale_if_error="1h")
        >>> if older:
        ...     show("This may be out of date.")
    """
    noted: list[StaleAnswer] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def note(key: str, reason: Reason, age: float | None) -> None:
    """Record one for the caller, if it asks."""
    noted = _noted.get()
    if noted is not None:
        noted.append(StaleAnswer(key, reason, age))

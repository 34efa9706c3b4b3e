"""The judgement of one comparison. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from unstale.protocol.globs import matches


class Outcome(StrEnum):
    """Result of comparing one cached value with the database.

    ``WRONG`` is the only violation: every transaction that could explain the difference is in the position
    that Redis had at the same moment as the value.
    """

    EQUAL = "equal"
    IN_FLIGHT = "in_flight"
    WRONG = "wrong"
    ABSENT = "absent"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison.

    Attributes:
        key: The key.
        outcome: Its result.
        reason: Why it was refused.
        xid: The change that is not applied yet; None but for ``IN_FLIGHT``.
        cached: The cached value; None but for ``WRONG`` and ``IN_FLIGHT``.
        loaded: What the loader returned in the same case.
        now_ms: Clock of Redis when the value was read.
    """

    key: str
    outcome: Outcome
    reason: str = ""
    xid: int | None = None
    cached: bytes | None = None
    loaded: bytes | None = None
    now_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Pending:
    """Changes that were committed in the snapshot of a load and are not in the position of Redis.

    Attributes:
        keys: Keys that they remove, each with the last transaction that does.
        patterns: Patterns that they remove, each with a transaction.
        refusal: Why they cannot be told; None if they can.
    """

    keys: Mapping[str, int] = field(default_factory=dict)
    patterns: Mapping[str, int] = field(default_factory=dict)
    refusal: str | None = None

    def explains(self, key: str) -> int | None:
        """Return the transaction whose invalidation of ``key`` is still to come, or None."""
        if (xid := self.keys.get(key)) is not None:
            return xid
        return next((xid for pattern, xid in self.patterns.items() if matches(pattern, key)), None)


def judge(key: str, cached: bytes, loaded: bytes, pending: Pending, now_ms: float) -> Compared:
    """Judge a value and what its loader returned in a snapshot that was taken after the value was read."""
    if same(cached, loaded):
        return Compared(key, Outcome.EQUAL, now_ms=now_ms)
    if pending.refusal is not None:
        return Compared(key, Outcome.REFUSED, pending.refusal, now_ms=now_ms)
    if (xid := pending.explains(key)) is not None:
        return Compared(key, Outcome.IN_FLIGHT, xid=xid, cached=cached, loaded=loaded, now_ms=now_ms)
    if (reason := other_form(cached, loaded)) is not None:
        return Compared(key, Outcome.REFUSED, reason, now_ms=now_ms)
    return Compared(key, Outcome.WRONG, cached=cached, loaded=loaded, now_ms=now_ms)


def same(cached: bytes, loaded: bytes) -> bool:
    """Return True if two JSON texts hold the same value; ``1`` and ``1.0`` are the same number."""
    if cached == loaded:
        return True
    first, second = _value(cached), _value(loaded)
    return first is not _UNREADABLE and bool(first == second)


def other_form(cached: bytes, loaded: bytes) -> str | None:
    """Return why two values cannot be the same thing at two moments: objects with other fields; or None."""
    first, second = _value(cached), _value(loaded)
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() != second.keys():
        return (
            f"the cached object has other fields than the loader's ({_names(first.keys() ^ second.keys())}): "
            "an agent fills the key with another loader than the rules file names"
        )
    return None


def differing(cached: bytes, loaded: bytes) -> tuple[str, ...]:
    """Return the names of the fields that differ; empty if one of the values is no object."""
    first, second = _value(cached), _value(loaded)
    if not isinstance(first, dict) or not isinstance(second, dict):
        return ()
    return tuple(sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name)))


_UNREADABLE = object()


def _value(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return _UNREADABLE


def _names(names: set[str]) -> str:
    shown = sorted(names)[:5]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")

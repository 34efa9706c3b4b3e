"""What one agent's history is made of, and how a record becomes a line of a file.

Times are seconds of the machine's monotonic clock, which its processes share. The order of an agent's records
is the order in which things happened to it: a read names how many *notices* (`Heard`, `Reset`, `Confirmed`)
came before it began, so no clock decides what it should have known.
"""

from collections.abc import Callable
from dataclasses import dataclass

import orjson

Seen = tuple[str, int | None]
"""A row, ``item:5``, and the version that a value showed of it; None: the row did not exist."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The agent listens from now on.

    Attributes:
        at: Changes whose commit began before this moment need not be heard of.
    """

    at: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A notice: the near cache has dropped every copy that is older than this.

    Attributes:
        at: When the agent knew, or a little later.
        versions: Row and version whose change was announced.
        patterns: Globs over trace keys (`writes.trace`): whatever they match was announced, too.
    """

    at: float
    versions: tuple[tuple[str, int], ...]
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reset:
    """A notice: everything was dropped."""

    at: float


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A notice: the cache has promised this agent never to serve these rows older than that.

    ``delete`` after its own write returned True, or ``wait_for`` of the token returned.
    """

    at: float
    versions: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """The agent claimed, at ``at``, to have processed everything committed before ``fresh``.

    Recorded after every notice that was processed until then.
    """

    at: float
    fresh: float


@dataclass(frozen=True, slots=True)
class Read:
    """One read.

    Attributes:
        key: The cache key.
        began: Before the cache was asked.
        ended: After it had answered.
        notices: How many notices had been processed when it began.
        staleness: `Cache.staleness` when it began; None: infinite.
        staleness_after: The same when it ended.
        attached: `Cache.attached` when it began.
        bound: ``max_staleness`` of the read, or None.
        seen: What the value showed.
    """

    key: str
    began: float
    ended: float
    notices: int
    staleness: float | None
    staleness_after: float | None
    attached: bool
    bound: float | None
    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Final:
    """What a place (an agent, or Redis itself) holds of a key after everything has settled."""

    key: str
    seen: tuple[Seen, ...]


Record = Opened | Heard | Reset | Confirmed | Sample | Read | Final

_KINDS: dict[str, Callable[..., Record]] = {
    kind.__name__: kind for kind in (Opened, Heard, Reset, Confirmed, Sample, Read, Final)
}


def encode(record: Record) -> bytes:
    """One line of JSON."""
    fields = [getattr(record, name) for name in type(record).__slots__]
    return orjson.dumps([type(record).__name__, *fields]) + b"\n"


def decode(line: bytes) -> Record:
    """What `encode` made; raises ValueError for a line that a killed process did not finish."""
    kind, *fields = orjson.loads(line)
    return _KINDS[kind](*map(_tuples, fields))


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

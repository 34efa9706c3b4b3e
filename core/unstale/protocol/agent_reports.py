"""The report of an agent about itself. Pure.

It is for people, and one thing is decided by it: for how long, a day at most, the leader applies the watches
that its rules lack by now.

A report is JSON of at most `MAX_REPORT_BYTES`. Every moment in it is an age, measured by the agent when it
wrote the report, and Redis adds when it was stored: so the clocks of the agents do not matter. A reader
trusts nothing in it, as any agent may write any report.
"""

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import orjson

from unstale.errors import MessageError
from unstale.protocol.newest_fills import decode_fills

VERSION: Final = 1
MAX_REPORT_BYTES: Final = 32 * 1024
MOST_REPORTED: Final = 64
"""Patterns in one report; those that are read least are summed up."""
MOST_REPORTED_SHAPES: Final = 32
MOST_FORMER: Final = 200
"""Patterns of former watches in one report."""
MOST_FORMER_BYTES: Final = 8_000
"""Characters of them together."""
MAX_NAME: Final = 512
"""Longest name of a pattern, a shape or an agent."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Counts of the keys of one pattern or shape since the agent was started; see `unstale.stats.Counters`.

    Attributes:
        load_seconds: Time that all loads took.
        longest_load: The longest of them, in seconds.
    """

    near_hits: int = 0
    redis_hits: int = 0
    stale_hits: int = 0
    misses: int = 0
    loads: int = 0
    loads_ahead: int = 0
    fills: int = 0
    fills_refused: int = 0
    load_seconds: float = 0.0
    longest_load: float = 0.0

    @property
    def hits(self) -> int:
        """Reads that a cache answered."""
        return self.near_hits + self.redis_hits + self.stale_hits

    @property
    def reads(self) -> int:
        """All reads."""
        return self.hits + self.misses

    def __add__(self, other: "Counted") -> "Counted":
        total = {name: value + getattr(other, name) for name, value in asdict(self).items()}
        total["longest_load"] = max(self.longest_load, other.longest_load)
        return Counted(**total)

    def __sub__(self, other: "Counted") -> "Counted":
        less = {name: max(0, value - getattr(other, name)) for name, value in asdict(self).items()}
        less["longest_load"] = self.longest_load
        return Counted(**less)


@dataclass(frozen=True, slots=True)
class Shape:
    """Keys that no rule owns.

    Attributes:
        counted: Their counts.
        meant: The pattern of which they are probably a misspelling; '' if there is none.
        former: The pattern by which a rule owned them until lately; '' if there is none.
    """

    counted: Counted
    meant: str = ""
    former: str = ""


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One agent at the moment of its report.

    Attributes:
        name: `UNSTALE_AGENT_NAME`; '' if it was not given.
        host: Its host.
        pid: Its process.
        version: Version of unstale.
        rules: Hash of the rules that it follows; '' before it knows any.
        epoch: The history of the log that it follows; '' for none.
        last: Id of the newest log entry that it has processed.
        running: Seconds since the cache was started.
        attached: Seconds since it was attached last; None while it is detached.
        staleness: Upper bound in seconds on how old its answers are; None while it is detached.
        near_entries: Values in its memory.
        near_bytes: Bytes counted for them.
        patterns: Counts by pattern of the rules.
        shapes: The same for keys that no rule owns.
        heard: Log ids, each with the milliseconds since it and all before it were processed.
        fills: Numbers of keys, each with the milliseconds since this agent filled it last.
        former: Patterns of former watches whose keys, or tags, it has used.
    """

    name: str
    host: str
    pid: int
    version: str
    rules: str
    epoch: str
    last: int
    running: float
    attached: float | None
    staleness: float | None
    near_entries: int
    near_bytes: int
    patterns: Mapping[str, Counted] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    heard: Sequence[tuple[int, int]] = ()
    fills: Mapping[int, int] = field(default_factory=dict)
    former: tuple[str, ...] = ()

    @property
    def counted(self) -> Counted:
        """The sum of all counts."""
        every = (*self.patterns.values(), *(shape.counted for shape in self.shapes.values()))
        return sum(every, Counted())


_PLAIN: Final = tuple(item.name for item in fields(AgentReport))[:-5]
_COUNTS: Final = tuple(item.name for item in fields(Counted))


def encode_report(report: AgentReport, *, fills: str) -> bytes:
    """Return the JSON of a report. ``fills`` is what `NewestFills.encode` returns, in place of its field.

    A report that is too long leaves out what is only for `unstale why`, and then the counts.
    """
    data: dict[str, object] = {"v": VERSION, **{name: getattr(report, name) for name in _PLAIN}}
    if report.former:
        data["former"] = list(report.former)
    counts = {
        "patterns": [[name, *_numbers(counted)] for name, counted in report.patterns.items()],
        "shapes": [
            [name, shape.meant, shape.former, *_numbers(shape.counted)]
            for name, shape in report.shapes.items()
        ],
    }
    for parts in ({**counts, "heard": report.heard, "fills": fills}, counts):
        encoded = orjson.dumps({**data, **parts})
        if len(encoded) <= MAX_REPORT_BYTES:
            return encoded
    return orjson.dumps(data)


def decode_report(payload: bytes) -> AgentReport:
    """Decode a report; raises `MessageError` if it cannot be read."""
    if len(payload) > MAX_REPORT_BYTES:
        raise MessageError("an agent's report is too long")
    try:
        data = orjson.loads(payload)
        if data["v"] != VERSION:
            raise MessageError("an agent's report is of a version that this release cannot read")
        return AgentReport(
            name=_text(data["name"]),
            host=_text(data["host"]),
            pid=_number(data["pid"]),
            version=_text(data["version"]),
            rules=_text(data["rules"]),
            epoch=_text(data["epoch"]),
            last=_number(data["last"]),
            running=_seconds(data["running"]),
            attached=None if data["attached"] is None else _seconds(data["attached"]),
            staleness=None if data["staleness"] is None else _seconds(data["staleness"]),
            near_entries=_number(data["near_entries"]),
            near_bytes=_number(data["near_bytes"]),
            patterns={
                _text(name): _counted(numbers)
                for name, *numbers in _list(data, "patterns", MOST_REPORTED + 1)
            },
            shapes={
                _text(name): Shape(_counted(numbers), _text(meant), _text(former))
                for name, meant, former, *numbers in _list(data, "shapes", MOST_REPORTED_SHAPES + 1)
            },
            heard=[(_number(last), _number(age)) for last, age in _list(data, "heard", 100)],
            fills=dict(decode_fills(_text(data.get("fills", ""), most=MAX_REPORT_BYTES))),
            former=tuple(map(_text, _list(data, "former", MOST_FORMER))),
        )
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
        raise MessageError(f"an agent's report cannot be read ({error})") from None


def _numbers(counted: Counted) -> list[float]:
    return [round(getattr(counted, name), 4) for name in _COUNTS]


def _counted(numbers: Sequence[Any]) -> Counted:
    """Return the counts; a later version may add some at the end."""
    whole, seconds = numbers[: len(_COUNTS) - 2], numbers[len(_COUNTS) - 2 : len(_COUNTS)]
    return Counted(*map(_number, whole), *map(_seconds, seconds))


def _list(data: Mapping[str, Any], name: str, most: int) -> list[Any]:
    found = data.get(name, [])
    if not isinstance(found, list) or len(found) > most:
        raise ValueError(f"{name} is not a list of at most {most}")
    return found


def _text(value: object, *, most: int = MAX_NAME) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"not a text of at most {most} characters")
    return value


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ValueError("not a whole number")
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError("not a number of seconds")
    return float(value)

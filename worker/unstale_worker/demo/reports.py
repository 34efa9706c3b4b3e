"""What the demo's processes tell each other: one JSON object a line, and the numbers they share."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any, Final, Self

import orjson

REPORT_EVERY: Final = 0.2
"""Seconds between two reports of a process."""
BREAK_VARIABLE: Final = "UNSTALE_DEMO_BREAK"
"""Set to 1: agents answer from a memory that hears of no invalidation, so that the checks must fail."""
WORLD_VARIABLE: Final = "DEMO_WORLD"
MODEL_VARIABLE: Final = "COMPANION_MODEL"
"""Name of the language model, for companions and for the worker, which refreshes greetings."""
TRACE: Final = "trace:"
"""How keys begin that only say which version of which row an invalidation is about."""


@dataclass(frozen=True, slots=True)
class World:
    """How large the demo's world is; the same in every process, handed over by environment.

    Attributes:
        users: Users, numbered from 1.
        organizations: Organizations; user n is a member of ``n % organizations + 1``.
        rate: Changes a second that the writer tries to commit.
        seed: Of the random numbers of writer and agents.
    """

    users: int = 300
    organizations: int = 30
    rate: float = 100.0
    seed: int = 1

    def environment(self) -> dict[str, str]:
        """The variable that hands it to a child process."""
        return {WORLD_VARIABLE: orjson.dumps(self).decode()}

    @classmethod
    def from_environment(cls) -> Self:
        """What `environment` made."""
        return cls(**orjson.loads(os.environ[WORLD_VARIABLE]))


@dataclass(frozen=True, slots=True)
class Commit:
    """A change the writer has committed.

    Attributes:
        source: The row it concerns: ``profile:42``.
        version: Its new version.
        at: When the commit had been acknowledged, in seconds of the machine's monotonic clock.
    """

    source: str
    version: int
    at: float


@dataclass(frozen=True, slots=True)
class WriterReport:
    """What the writer did since its last report."""

    commits: tuple[Commit, ...]
    unwatched: int
    rollbacks: int


@dataclass(frozen=True, slots=True)
class Heard:
    """An invalidation that reached an agent: its near cache holds no older version any more.

    Attributes:
        source: The row.
        version: Its version.
        at: When, in seconds of the machine's monotonic clock.
    """

    source: str
    version: int
    at: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One read, to be compared with the staleness the cache claimed when it began.

    Attributes:
        source: A row the value was made of.
        version: The version that the value held.
        before: Everything committed before this moment must have been in the value, by the cache's word.
    """

    source: str
    version: int
    before: float


@dataclass(frozen=True, slots=True)
class AgentReport:
    """Where an agent stands, and what it heard since its last report.

    ``staleness`` is None while detached. ``greeting`` is the newest one, ``waited`` how many visitors
    had to wait for one, ``url`` where the agent can be visited. Totals count since the start: ``reads`` those
    that were checked, ``misses`` the cache's answers that came from a loader, and ``loads`` its calls.
    """

    name: str
    reads: int
    near_hits: int
    redis_hits: int
    loads: int
    stale_reads: int
    invalidations: int
    staleness: float | None
    attached: bool
    heard: tuple[Heard, ...]
    samples: tuple[Sample, ...]
    recent: tuple[str, ...]
    complaint: str
    greetings: int = 0
    model_calls: int = 0
    greeting: str = ""
    waited: int = 0
    stale_hits: int = 0
    url: str = ""
    misses: int = 0


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Where the stand-in for a language model listens."""

    url: str


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The worker's status."""

    role: str
    lag: float | None
    listening: bool
    entries: int
    batches: int
    keys: int
    patterns: int
    errors: int
    problem: str
    refreshes: int = 0


Report = WriterReport | AgentReport | WorkerReport | ModelReport
_KINDS: Final = {kind.__name__: kind for kind in (WriterReport, AgentReport, WorkerReport, ModelReport)}
_PARTS: Final[Mapping[str, type[Commit] | type[Heard] | type[Sample]]] = {
    "commits": Commit,
    "heard": Heard,
    "samples": Sample,
}


def encode(report: Report) -> bytes:
    """One line."""
    return orjson.dumps({"kind": type(report).__name__, **_plain(report)}) + b"\n"


def decode(line: bytes) -> Report:
    """A line of `encode`; our own processes write them, so anything else is a bug and raises."""
    data: dict[str, Any] = orjson.loads(line)
    kind = _KINDS[data.pop("kind")]
    for name, part in _PARTS.items():
        if name in data:
            data[name] = tuple(part(*row) for row in data[name])
    return kind(**data)


def _plain(report: Report) -> dict[str, object]:
    plain: dict[str, object] = {}
    for item in fields(report):
        value = getattr(report, item.name)
        if item.name in _PARTS:
            value = [[getattr(row, part.name) for part in fields(row)] for row in value]
        plain[item.name] = value
    return plain


@cache
def statement(name: str) -> str:
    """The text of ``demo/sql/<name>.sql``."""
    return files("unstale_worker.demo").joinpath("sql", f"{name}.sql").read_text("utf-8")

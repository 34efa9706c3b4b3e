"""Reports between the demo's processes (one JSON object per line), and their shared settings."""

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
"""Set to 1, agents answer from a memory that ignores invalidations, so that the checks must fail."""
WORLD_VARIABLE: Final = "DEMO_WORLD"
MODEL_VARIABLE: Final = "COMPANION_MODEL"
"""Name of the language model, for companions and for the worker, which refreshes greetings."""
TRACE: Final = "trace:"
"""Prefix of keys that only carry the row and version of an invalidation."""


@dataclass(frozen=True, slots=True)
class World:
    """Size of the demo's data, the same in every process; passed in an environment variable.

    Attributes:
        users: Number of users, numbered from 1.
        organizations: Number of organizations; user n is a member of ``n % organizations + 1``.
        rate: Changes per second that the writer tries to commit.
        seed: Seed of the random numbers of writer and agents.
    """

    users: int = 300
    organizations: int = 30
    rate: float = 100.0
    seed: int = 1

    def environment(self) -> dict[str, str]:
        """Return the environment variable for a child process."""
        return {WORLD_VARIABLE: orjson.dumps(self).decode()}

    @classmethod
    def from_environment(cls) -> Self:
        """Read the variable that `environment` has set."""
        return cls(**orjson.loads(os.environ[WORLD_VARIABLE]))


@dataclass(frozen=True, slots=True)
class Commit:
    """A change that the writer has committed.

    Attributes:
        source: The changed row: ``profile:42``.
        version: The new version of the row.
        at: Time of the commit's acknowledgement, in seconds of the machine's monotonic clock.
    """

    source: str
    version: int
    at: float


@dataclass(frozen=True, slots=True)
class WriterReport:
    """Work of the writer since its last report."""

    commits: tuple[Commit, ...]
    unwatched: int
    rollbacks: int


@dataclass(frozen=True, slots=True)
class Heard:
    """An invalidation that an agent has applied: its near cache has no older version any more.

    Attributes:
        source: The changed row.
        version: The version of the row.
        at: Time, in seconds of the machine's monotonic clock.
    """

    source: str
    version: int
    at: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One read, to be compared with the staleness that the cache claimed at its begin.

    Attributes:
        source: A row that the value was made from.
        version: The version of the row in the value.
        before: The value must contain every commit before this time, according to the claimed staleness.
    """

    source: str
    version: int
    before: float


@dataclass(frozen=True, slots=True)
class AgentReport:
    """State of an agent, and its invalidations since the last report.

    Totals count since the start.

    Attributes:
        name: Name of the agent.
        reads: Checked reads.
        near_hits: Reads answered from the near cache.
        redis_hits: Reads answered from Redis.
        loads: Calls of loaders.
        stale_reads: Reads older than an invalidation that was received before.
        invalidations: Invalidated keys received.
        staleness: Current staleness in seconds; None while detached.
        attached: True if the near cache is trusted.
        heard: Invalidations since the last report.
        samples: Reads to be compared with the claimed staleness.
        recent: Newest invalidated keys, as text.
        complaint: Description of the first wrong read, or empty.
        greetings: Greetings returned.
        model_calls: Calls of the language model.
        greeting: The newest greeting.
        waited: Visitors who had to wait for a greeting.
        stale_hits: Reads answered with a stale value, as the rules allow.
        url: URL of the agent's service.
        misses: Answers of the cache that came from a loader.
        searches: Searches of memories, under a tag.
        search_loads: Those of them that the database answered.
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
    searches: int = 0
    search_loads: int = 0


@dataclass(frozen=True, slots=True)
class ModelReport:
    """URL of the stand-in for a language model."""

    url: str


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The worker's status, what its refreshes used, and the URL of its page.

    Attributes:
        unchanged: Calls of the model saved by unchanged inputs.
        tokens: Tokens of the calls that it made.
        tokens_saved: Tokens of the calls that were saved.
    """

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
    url: str = ""
    unchanged: int = 0
    tokens: int = 0
    tokens_saved: int = 0


Report = WriterReport | AgentReport | WorkerReport | ModelReport
_KINDS: Final = {kind.__name__: kind for kind in (WriterReport, AgentReport, WorkerReport, ModelReport)}
_PARTS: Final[Mapping[str, type[Commit] | type[Heard] | type[Sample]]] = {
    "commits": Commit,
    "heard": Heard,
    "samples": Sample,
}


def encode(report: Report) -> bytes:
    """Encode a report as one line."""
    return orjson.dumps({"kind": type(report).__name__, **_plain(report)}) + b"\n"


def decode(line: bytes) -> Report:
    """Decode a line of `encode`. Only the demo's own processes write them, so an invalid line is a bug."""
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
    """Return the text of ``demo/sql/<name>.sql``."""
    return files("unstale_worker.demo").joinpath("sql", f"{name}.sql").read_text("utf-8")

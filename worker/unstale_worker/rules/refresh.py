"""What makes a key new when its inputs change: one ``[refresh."..."]`` table, parsed; pure."""

import re
from dataclasses import dataclass, field
from typing import Final

from unstale_worker.rules.identifiers import TableName
from unstale_worker.rules.query import Query
from unstale_worker.rules.template import Template

SEPARATOR: Final = ":"
"""A placeholder of a refresh stands for a segment: one or more characters without this one."""


@dataclass(frozen=True, slots=True)
class RowLoader:
    """The value is one row, read by the worker: an object of its columns; no such row: null.

    Attributes:
        table: The table or view.
        key: Column and the field of the key that it equals, in the order of the file; at least one.
        columns: The columns of the value; None: all.
    """

    table: TableName
    key: tuple[tuple[str, str], ...]
    columns: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class SqlLoader:
    """The value is what a query returns, run by the worker.

    Attributes:
        query: Its placeholders are fields of the key.
        reads: Tables it reads, as the user stated them; None: told from its text.
    """

    query: Query
    reads: tuple[TableName, ...] | None


@dataclass(frozen=True, slots=True)
class PythonLoader:
    """The value is what an async function returns.

    Attributes:
        module: Where it lies, as ``import`` names it.
        function: Its name there, with dots for what lies inside a class.
    """

    module: str
    function: str

    def __str__(self) -> str:
        return f"{self.module}:{self.function}"


Loader = RowLoader | SqlLoader | PythonLoader


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``count`` loads in ``seconds``."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Renewal:
    """What an invalidation does to a key that is made new when it changes.

    Attributes:
        serve_ms: Milliseconds its old value is kept to be served; 0: not at all; -1: a purge, which also
            removes what was kept before, and makes nothing new.
        debounce_ms: Milliseconds until it is due.
        only_if_cached: Only if it was in Redis.
    """

    serve_ms: int
    debounce_ms: int
    only_if_cached: bool


PURGED: Final = Renewal(-1, 0, True)


@dataclass(frozen=True, slots=True)
class RefreshSpec:
    """How the keys of one pattern are made new.

    Attributes:
        template: The keys; its ``columns`` are the names of the fields.
        loader: What makes the value.
        debounce: Seconds from the first change to the load, at least; more changes meanwhile cost nothing.
        only_if_cached: Only keys that were in Redis when they were invalidated are made new.
        serve_stale: Seconds the old value is still served after a change, at most; 0: not at all.
        timeout: Seconds one load may take.
        concurrency: Loads at the same time, over all processes.
        rate: Loads in a time, over all processes; None: any number.
        ttl: Seconds the value may live; None: what ``[ttl]`` says.
        line: Line of the table in its file, 1-based.
        renewal: What of this an invalidation must know.
    """

    template: Template
    loader: Loader
    debounce: float = 0.0
    only_if_cached: bool = True
    serve_stale: float = 0.0
    timeout: float = 30.0
    concurrency: int = 8
    rate: Rate | None = None
    ttl: float | None = None
    line: int = field(default=0, compare=False)
    renewal: Renewal = field(init=False, repr=False, compare=False)
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        renewal = Renewal(round(self.serve_stale * 1000), round(self.debounce * 1000), self.only_if_cached)
        object.__setattr__(self, "renewal", renewal)
        object.__setattr__(self, "_regex", _regex(self.template))

    @property
    def pattern(self) -> str:
        """A Redis glob that matches every key of this refresh (and some others: ``*`` crosses segments)."""
        return self.template.pattern

    def matches(self, key: str) -> bool:
        """Whether ``key`` is one of this refresh."""
        return self._regex.fullmatch(key) is not None

    def fields(self, key: str) -> dict[str, str]:
        """The segments of ``key`` by their placeholders' names; ValueError for a key of another refresh."""
        match = self._regex.fullmatch(key)
        if match is None:
            raise ValueError(f"{key!r} is no key of {self.template.text!r}")
        return dict(zip(dict.fromkeys(self.template.columns), match.groups(), strict=True))

    @property
    def normal(self) -> list[object]:
        """What matters to cached values, for the hash of the rules."""
        made: list[object]
        match self.loader:
            case RowLoader(table, key, columns):
                made = ["row", table.schema, table.name, list(key), columns]
            case SqlLoader(query):
                made = ["sql", query.normal]
            case PythonLoader():
                made = ["python", str(self.loader)]
        return [self.template.text, made, self.serve_stale, self.ttl]


def _regex(template: Template) -> re.Pattern[str]:
    """One group for each field; a field that stands there again must be the same."""
    groups: dict[str, int] = {}
    text = re.escape(template.literals[0])
    for name, literal in zip(template.columns, template.literals[1:], strict=True):
        again = groups.get(name)
        if again is None:
            groups[name] = len(groups) + 1
            text += f"([^{SEPARATOR}]+)"
        else:
            text += rf"(?:\{again})"
        text += re.escape(literal)
    return re.compile(text, re.DOTALL)


def overlap(refresh: Template, watched: Template) -> bool:
    """Whether a key may belong to both; a placeholder of ``refresh`` stays within a segment."""
    first, second = _units(refresh), _units(watched)
    todo, seen = [(0, 0)], {(0, 0)}
    while todo:
        i, j = todo.pop()
        if i == len(first) and j == len(second):
            return True
        one = first[i] if i < len(first) else ""
        other = second[j] if j < len(second) else ""
        steps = {
            (i + 1, j): one is None or (other is None and one != ""),
            (i, j + 1): other is None or (one is None and other not in ("", SEPARATOR)),
            (i + 1, j + 1): one == other and one not in (None, ""),
        }
        for step, possible in steps.items():
            if possible and step not in seen:
                seen.add(step)
                todo.append(step)
    return False


def _units(template: Template) -> list[str | None]:
    """Characters, and None for each placeholder."""
    units: list[str | None] = list(template.literals[0])
    for literal in template.literals[1:]:
        units += [None, *literal]
    return units

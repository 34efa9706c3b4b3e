"""A parsed ``[refresh."..."]`` table: how keys are recomputed when their inputs change; pure."""

import re
from dataclasses import dataclass, field
from typing import Final

from unstale_worker.rules.budget import Budget, OverBudget
from unstale_worker.rules.identifiers import TableName
from unstale_worker.rules.query import Query
from unstale_worker.rules.template import Template

SEPARATOR: Final = ":"
"""Separates the segments of a key. A placeholder of a refresh matches exactly one segment."""


@dataclass(frozen=True, slots=True)
class RowLoader:
    """Loader ``"row"``: the worker reads one row. The value is an object of its columns, or null.

    Attributes:
        table: The table or view.
        key: Pairs of a column and the field of the key that it must equal, in file order; at least one.
        columns: Columns of the value; None: all.
    """

    table: TableName
    key: tuple[tuple[str, str], ...]
    columns: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class SqlLoader:
    """Loader ``"sql"``: the worker runs a query. The value is its result.

    Attributes:
        query: The query; its placeholders are fields of the key.
        reads: Tables it reads, as the user stated them; None: derived from its text.
    """

    query: Query
    reads: tuple[TableName, ...] | None


@dataclass(frozen=True, slots=True)
class PythonLoader:
    """Loader ``"module:function"``: the value is the result of an async function.

    Attributes:
        module: Dotted name of the module.
        function: Name in the module, with dots for attributes of a class.
    """

    module: str
    function: str

    def __str__(self) -> str:
        return f"{self.module}:{self.function}"


Loader = RowLoader | SqlLoader | PythonLoader


@dataclass(frozen=True, slots=True)
class Rate:
    """Rate limit: at most ``count`` loads in ``seconds``."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Renewal:
    """The facts that an invalidation needs about a key that is refreshed, or that has a spare value.

    Attributes:
        serve_ms: Milliseconds for which the old value may still be served; 0: not at all. -1 is a purge: it
            also removes an old value that was kept earlier, and refreshes nothing.
        debounce_ms: Milliseconds until the refresh is due.
        only_if_cached: Refresh the key only if it was in Redis.
        spare_ms: Milliseconds for which a spare value may live on; 0: the key has none.
        refreshed: False if the key is not refreshed, but has a spare value.
    """

    serve_ms: int
    debounce_ms: int
    only_if_cached: bool
    spare_ms: int = 0
    refreshed: bool = True


PURGED: Final = Renewal(-1, 0, True)
NOT_REFRESHED: Final = Renewal(0, 0, True, refreshed=False)


@dataclass(frozen=True, slots=True)
class RefreshSpec:
    """One ``[refresh."..."]`` table: how the keys of one pattern are refreshed.

    Attributes:
        template: The keys; its ``columns`` are the names of the fields.
        loader: Computes the value.
        debounce: Minimum seconds from the first change to the load; changes in between cause no further load.
        only_if_cached: Refresh only keys that were in Redis when they were invalidated.
        serve_stale: Maximum seconds for which the old value is still served after a change; 0: not at all.
        timeout: Maximum seconds for one load.
        concurrency: Maximum number of simultaneous loads, over all processes.
        rate: Rate limit for loads, over all processes; None: no limit.
        ttl: Seconds until the value expires; None: as ``[ttl]`` says.
        inputs: Query whose unchanged result means that the loader would return the same; None: there is none.
        budgets: Most calls of the loader in a window of time, over all processes.
        over_budget: The effect of a used-up one: an old value is served, or the next reader loads.
        soft_timeout: See `unstale_worker.rules.reads.ReadSpec`.
        stale_if_error: The same.
        line: Line of the table in its file, 1-based.
        renewal: The part of this that an invalidation needs to know.
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
    inputs: Query | None = None
    budgets: tuple[Budget, ...] = ()
    over_budget: OverBudget = "load_on_read"
    soft_timeout: float = 0.0
    stale_if_error: float = 0.0
    line: int = field(default=0, compare=False)
    renewal: Renewal = field(init=False, repr=False, compare=False)
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        renewal = Renewal(round(self.serve_stale * 1000), round(self.debounce * 1000), self.only_if_cached)
        object.__setattr__(self, "renewal", renewal)
        object.__setattr__(self, "_regex", _regex(self.template))

    @property
    def pattern(self) -> str:
        """A Redis glob that matches every key of this refresh, and others: ``*`` crosses segments."""
        return self.template.pattern

    def matches(self, key: str) -> bool:
        """Return True if ``key`` belongs to this refresh."""
        return self._regex.fullmatch(key) is not None

    def fields(self, key: str) -> dict[str, str]:
        """Map placeholder names to the segments of ``key``; ValueError if the key does not match."""
        match = self._regex.fullmatch(key)
        if match is None:
            raise ValueError(f"key {key!r} does not match {self.template.text!r}")
        return dict(zip(dict.fromkeys(self.template.columns), match.groups(), strict=True))

    @property
    def normal(self) -> list[object]:
        """The part that affects cached values, for the hash of the rules."""
        loader: list[object]
        match self.loader:
            case RowLoader(table, key, columns):
                loader = ["row", table.schema, table.name, list(key), columns]
            case SqlLoader(query):
                loader = ["sql", query.normal]
            case PythonLoader():
                loader = ["python", str(self.loader)]
        return [self.template.text, loader, self.serve_stale, self.ttl]


def _regex(template: Template) -> re.Pattern[str]:
    """Build the regex of a template: one group per field; a repeated field must match the same text."""
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


def inseparable(template: Template) -> tuple[str, str] | None:
    """Return two placeholders whose values cannot be told apart in a key; None if every key has one reading.

    A value holds no `SEPARATOR`, so a segment with one unknown placeholder has one reading: the rest of it is
    known. Two unknown ones in a segment have several, as ``u-v-w`` has for ``{a}-{b}``.
    """
    segments: list[list[str]] = [[]]
    for name, literal in zip(template.columns, template.literals[1:], strict=True):
        segments[-1].append(name)
        if SEPARATOR in literal:
            segments.append([])
    known: set[str] = set()
    while True:
        unknown = [list(dict.fromkeys(name for name in names if name not in known)) for names in segments]
        found = {names[0] for names in unknown if len(names) == 1}
        if not found:
            return next(((names[0], names[1]) for names in unknown if names), None)
        known |= found


def overlap(refresh: Template, watched: Template) -> bool:
    """Return True if some key matches both templates; a placeholder of ``refresh`` stays in one segment."""
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
    """Return the characters of a template, with None for each placeholder."""
    units: list[str | None] = list(template.literals[0])
    for literal in template.literals[1:]:
        units += [None, *literal]
    return units

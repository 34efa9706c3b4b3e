"""From changed rows to keys, patterns and pending fan-out queries; the hot path."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from unstale_worker.rules.identifiers import TableName
from unstale_worker.rules.query import Query
from unstale_worker.rules.template import MAX_VALUE_BYTES, Template, Values

Arguments = tuple[str | None, ...]
"""Values of one changed row, in the order of `Watch.row_columns`; None is a null."""


@dataclass(frozen=True, slots=True)
class Watch:
    """One rule, a ``[[watch]]`` block: which keys a change of ``table`` concerns.

    Attributes:
        table: The watched table.
        keys: The key templates.
        columns: Only a change of one of these counts (or of a key column); None: any change.
        query: The fan-out query, or None: then the templates are filled from the changed row itself.
        reads: Tables the query reads, as the user stated them; None: told from its text.
        row_columns: The changed row's columns this rule needs, sorted.
        line: Line of the block in its file, 1-based.
        purge: Its keys are removed for good: never served stale, never made new, whatever else concerns them.
    """

    table: TableName
    keys: tuple[Template, ...]
    columns: tuple[str, ...] | None
    query: Query | None
    reads: tuple[TableName, ...] | None
    row_columns: tuple[str, ...]
    line: int
    purge: bool = False

    @property
    def patterns(self) -> frozenset[str]:
        """The globs of this rule's templates."""
        return frozenset(template.pattern for template in self.keys)

    def expand(self, values: Mapping[str, Values], into: "Plan") -> None:
        """Add the keys of all templates; a column that ``values`` lacks means the template's pattern.

        Args:
            values: Column name to the values of all rows, all of the same length.
            into: The plan that receives keys and patterns.
        """
        with into.receiving(purge=self.purge) as keys:
            for template in self.keys:
                try:
                    columns = [values[column] for column in template.columns]
                except KeyError:
                    into.patterns.add(template.pattern)
                else:
                    template.expand(columns, keys=keys, patterns=into.patterns)


@dataclass(slots=True)
class Plan:
    """What one batch of changes asks for; it only ever grows.

    Attributes:
        keys: Keys to remove, each once, in the order they came up.
        patterns: Globs whose keys to remove.
        queries: Fan-out queries still to run, each with the arguments of the changed rows.
        purged: Those of ``keys`` that a rule with ``purge`` asks for.
    """

    keys: dict[str, None] = field(default_factory=dict)
    patterns: set[str] = field(default_factory=set)
    queries: dict[Watch, set[Arguments]] = field(default_factory=dict)
    purged: dict[str, None] = field(default_factory=dict)

    @contextmanager
    def receiving(self, *, purge: bool) -> Iterator[dict[str, None]]:
        """Where to put the keys of one rule."""
        if not purge:
            yield self.keys
            return
        own: dict[str, None] = {}
        yield own
        self.keys.update(own)
        self.purged.update(own)

    def __bool__(self) -> bool:
        return bool(self.keys or self.patterns or self.queries)


@dataclass(frozen=True, slots=True)
class Step:
    """What one watch does with entries whose rows have certain columns; made once for many entries.

    Attributes:
        watch: The rule.
        stride: Columns in a row.
        fills: Each template with the places of its columns in a row, or None where the row lacks one.
        arguments: The places of the query's arguments, or None where the row lacks one.
    """

    watch: Watch
    stride: int
    fills: tuple[tuple[Template, tuple[int, ...] | None], ...]
    arguments: tuple[int, ...] | None

    @classmethod
    def of(cls, watch: Watch, key_columns: Sequence[str]) -> "Step":
        """Find the columns' places in rows that have ``key_columns``."""
        places = {name: at for at, name in enumerate(key_columns)}

        def find(names: Sequence[str]) -> tuple[int, ...] | None:
            return tuple(places[name] for name in names) if places.keys() >= set(names) else None

        fills = tuple((template, find(template.columns)) for template in watch.keys)
        return cls(watch, len(key_columns), fills, find(watch.row_columns))

    def run(self, flat: Sequence[str | None], into: Plan) -> None:
        """Add what ``flat`` (row after row, ``stride`` values each) asks for."""
        if self.watch.query is not None:
            self._ask(flat, into)
            return
        with into.receiving(purge=self.watch.purge) as keys:
            for template, places in self.fills:
                if places is None:
                    into.patterns.add(template.pattern)
                else:
                    columns = [flat[place :: self.stride] for place in places]
                    template.expand(columns, keys=keys, patterns=into.patterns)

    def _ask(self, flat: Sequence[str | None], into: Plan) -> None:
        """Note the query's arguments; what cannot be asked for adds the patterns."""
        if self.arguments is None:
            into.patterns.update(self.watch.patterns)
            return
        rows: set[Arguments] = {()}
        if self.arguments:
            rows = set(zip(*[flat[place :: self.stride] for place in self.arguments], strict=True))
        fitting = {row for row in rows if not _oversize(row)}
        if len(fitting) < len(rows):
            into.patterns.update(self.watch.patterns)
        if fitting:
            into.queries.setdefault(self.watch, set()).update(fitting)


def _oversize(row: Arguments) -> bool:
    """Arguments are bound, so any character is fine; only their size is bounded, for the worker's memory."""
    return any(value is not None and len(value.encode()) > MAX_VALUE_BYTES for value in row)

"""From changed rows to keys, patterns and pending fan-out queries. This is the hot path."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from unstale.protocol.key_watches import KeyWatch
from unstale_worker.rules.identifiers import TableName
from unstale_worker.rules.query import Query
from unstale_worker.rules.template import MAX_VALUE_BYTES, Template, Values

Arguments = tuple[str | None, ...]
"""Values of one changed row, in the order of `Watch.row_columns`; None stands for null."""


@dataclass(frozen=True, slots=True)
class Watch:
    """One rule, a ``[[watch]]`` block: the keys that a change of ``table`` affects.

    Attributes:
        table: The watched table.
        keys: The key templates; behind them those of the records of tags, each a key like any other.
        columns: Only changes of these columns (or of a key column) count; None: any change.
        query: The fan-out query; None: the changed row itself fills the templates.
        reads: Tables the query reads, as the user stated them; None: derived from its text.
        row_columns: Columns of the changed row that this rule needs, sorted.
        line: Line of the block in its file, 1-based.
        purge: Remove the keys for good: never serve them stale and never refresh them, even if another rule
            would.
        former_query: Hash of the query of a former watch, whose text is not known any more: each change
            invalidates the patterns; '' for every other watch.
    """

    table: TableName
    keys: tuple[Template, ...]
    columns: tuple[str, ...] | None
    query: Query | None
    reads: tuple[TableName, ...] | None
    row_columns: tuple[str, ...]
    line: int
    purge: bool = False
    former_query: str = ""

    @property
    def patterns(self) -> frozenset[str]:
        """The globs of all templates of this rule."""
        return frozenset(template.pattern for template in self.keys)

    @property
    def normal(self) -> list[object]:
        """The part that decides which changes count, without the templates."""
        columns = None if self.columns is None else sorted(self.columns)
        query = None if self.query is None else self.query.normal
        return [self.table.schema, self.table.name, columns, query]

    @property
    def key_watches(self) -> tuple[KeyWatch, ...]:
        """This watch once for each template, as it is published."""
        columns = None if self.columns is None else tuple(sorted(self.columns))
        query = self.former_query if self.query is None else self.query.hash
        table = self.table
        return tuple(
            KeyWatch(table.schema, table.name, columns, query, template.text, self.purge)
            for template in self.keys
        )

    def expand(self, values: Mapping[str, Values], into: "Plan", causes: Sequence[int]) -> None:
        """Add the keys of all templates. A template adds its pattern if ``values`` lacks one of its columns.

        Args:
            values: Column name to the values of all rows; all columns have the same length.
            into: The plan that receives keys and patterns.
            causes: The number of the change of each row.
        """
        with into.receiving(purge=self.purge) as keys:
            for template in self.keys:
                try:
                    columns = [values[column] for column in template.columns]
                except KeyError:
                    into.patterns.add(template.pattern)
                else:
                    template.expand(columns, keys=keys, patterns=into.patterns, causes=causes)


@dataclass(slots=True)
class Plan:
    """The invalidations of one batch of changes; a plan only grows.

    Attributes:
        keys: Keys to remove, unique, in order of first appearance, each with its cause: the number of the
            outbox entry in its page.
        patterns: Globs of the keys to remove.
        queries: Fan-out queries still to run, each with the arguments of the changed rows and their causes.
        purged: The subset of ``keys`` that a rule with ``purge`` names.
        tables: The number of the table of each watch; see `unstale.protocol.reasons.table_number`.
        annotations: What ``unstale.because()`` was given, by transaction.
    """

    keys: dict[str, int] = field(default_factory=dict)
    patterns: set[str] = field(default_factory=set)
    queries: dict[Watch, dict[Arguments, int]] = field(default_factory=dict)
    purged: dict[str, int] = field(default_factory=dict)
    tables: dict[int, int] = field(default_factory=dict)
    annotations: dict[int, Mapping[str, object]] = field(default_factory=dict)

    @contextmanager
    def receiving(self, *, purge: bool) -> Iterator[dict[str, int]]:
        """Yield the dict that collects the keys of one rule."""
        if not purge:
            yield self.keys
            return
        own: dict[str, int] = {}
        yield own
        self.keys.update(own)
        self.purged.update(own)

    def __bool__(self) -> bool:
        return bool(self.keys or self.patterns or self.queries)


@dataclass(frozen=True, slots=True)
class Step:
    """One watch, prepared for entries whose rows have certain columns; built once for many entries.

    Attributes:
        watch: The rule.
        stride: Number of columns in a row.
        fills: Each template with the indexes of its columns in a row; None if the row lacks one.
        arguments: The indexes of the query's arguments in a row; None if the row lacks one.
    """

    watch: Watch
    stride: int
    fills: tuple[tuple[Template, tuple[int, ...] | None], ...]
    arguments: tuple[int, ...] | None

    @classmethod
    def of(cls, watch: Watch, key_columns: Sequence[str]) -> "Step":
        """Find the indexes of the columns in rows that have ``key_columns``."""
        places = {name: at for at, name in enumerate(key_columns)}

        def find(names: Sequence[str]) -> tuple[int, ...] | None:
            known = places.keys() >= set(names) and not watch.former_query
            return tuple(places[name] for name in names) if known else None

        fills = tuple((template, find(template.columns)) for template in watch.keys)
        return cls(watch, len(key_columns), fills, find(watch.row_columns))

    def run(self, flat: Sequence[str | None], into: Plan, causes: Sequence[int]) -> None:
        """Add the keys, patterns and queries of ``flat``: row after row, ``stride`` values each."""
        if self.watch.query is not None:
            self._ask(flat, into, causes)
            return
        with into.receiving(purge=self.watch.purge) as keys:
            for template, places in self.fills:
                if places is None:
                    into.patterns.add(template.pattern)
                else:
                    columns = [flat[place :: self.stride] for place in places]
                    template.expand(columns, keys=keys, patterns=into.patterns, causes=causes)

    def _ask(self, flat: Sequence[str | None], into: Plan, causes: Sequence[int]) -> None:
        """Record the arguments of the query; add the patterns for rows that cannot be queried."""
        if self.arguments is None:
            into.patterns.update(self.watch.patterns)
            return
        rows: dict[Arguments, int] = {(): causes[-1]}
        if self.arguments:
            columns = [flat[place :: self.stride] for place in self.arguments]
            rows = dict(zip(zip(*columns, strict=True), causes, strict=True))
        fitting = {row: cause for row, cause in rows.items() if not _oversize(row)}
        if len(fitting) < len(rows):
            into.patterns.update(self.watch.patterns)
        if fitting:
            into.queries.setdefault(self.watch, {}).update(fitting)


def _oversize(row: Arguments) -> bool:
    """Return True if a value exceeds 512 bytes.

    Arguments are bound, so any character is allowed. The limit bounds the worker's memory.
    """
    return any(value is not None and len(value.encode()) > MAX_VALUE_BYTES for value in row)

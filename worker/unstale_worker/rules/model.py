"""The parsed and valid rules of one file: columns to capture, patterns to publish, keys of a change."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from unstale.errors import RuleError, RuleErrors
from unstale.protocol.key_forms import KINDS, KeyForm, usable
from unstale.protocol.key_watches import Kept
from unstale.protocol.messages import PublishedRules
from unstale_worker.rules import discovery, toml_lines
from unstale_worker.rules.difference import RULES_VERSION, meanings
from unstale_worker.rules.identifiers import ColumnName, TableName
from unstale_worker.rules.parse import RulesParser
from unstale_worker.rules.plan import Plan, Step, Watch
from unstale_worker.rules.reads import ReadSpec
from unstale_worker.rules.refresh import NOT_REFRESHED, PURGED, RefreshSpec, Renewal


@dataclass(frozen=True, slots=True)
class TableNeeds:
    """Columns that the capture of one table must deliver, for all its rules together.

    Attributes:
        keys: Columns written for each changed row, sorted. Empty if every template of the table is constant.
        columns: Only changes of these columns (or of ``keys``) count; None if any rule wants every change.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one ``unstale.toml``: immutable, created by `load` or `parse`, no I/O afterwards.

    Attributes:
        file: The file, as the user named it.
        watches: One per ``[[watch]]`` block, in file order.
        ttl: Pattern and seconds, in file order; the first match counts.
        tables: (schema, name) to the columns its capture must deliver, sorted.
        hash: 32 hex digits over everything that affects cached values. The order of the rules, white space
            and comments do not change it. Under another hash `difference` says which keys must be dropped.
        patterns: One Redis glob per template, sorted and unique: the keys that the rules own.
        refreshes: One per ``[refresh."..."]`` table, in file order; the first that matches a key counts.
        reads: Options of reads, by template; the first that matches a key counts.
        forms: The spelling of keys, once the types of the columns are known; see `typed`.
        unlearned_tables: Tables that `unstale learn` asks no rule for.
        unlearned_columns: Columns that it asks no rule for.
        unlearned_keys: Globs of the keys that `unstale learn` does not look at.
        kept: Former watches, which stand behind those of the file in ``watches``; see `with_former`.

    Example:
        >>> rules = Rules.parse('[[watch]]\\ntable = "profiles"\\nkeys = ["user:{id}:profile"]')
        >>> plan = Plan()
        >>> rules.plan("public", "profiles", ["id"], ["7", "8"], plan)
        >>> list(plan.keys)
        ['user:7:profile', 'user:8:profile']
    """

    file: str
    watches: tuple[Watch, ...]
    ttl: tuple[tuple[str, float], ...]
    tables: Mapping[tuple[str, str], TableNeeds]
    hash: str
    patterns: tuple[str, ...]
    refreshes: tuple[RefreshSpec, ...] = ()
    forms: tuple[KeyForm, ...] = ()
    unlearned_tables: tuple[TableName, ...] = ()
    unlearned_columns: tuple[ColumnName, ...] = ()
    unlearned_keys: tuple[str, ...] = ()
    reads: tuple[ReadSpec, ...] = ()
    kept: tuple[Kept, ...] = ()
    _as_published: PublishedRules = field(init=False, repr=False, compare=False)
    _steps: dict[tuple[str, str, tuple[str, ...]], tuple[Step, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        refresh = tuple((spec.pattern, spec.serve_stale) for spec in self.refreshes)
        reads = tuple(each.published for each in self.reads)
        object.__setattr__(self, "_as_published", PublishedRules(refresh=refresh, reads=reads))

    @classmethod
    def load(cls, path: Path | None = None, *, root: Path = Path()) -> "Rules":
        """Read the rules of ``path``, or find them from ``root`` upwards.

        In each folder ``unstale.toml`` comes first, then ``[tool.unstale]`` in ``pyproject.toml``.

        Raises:
            RuleError: The file does not exist or cannot be read.
            RuleErrors: The file has mistakes; the error lists all of them.
        """
        found = discovery.read(path, root=root)
        return cls._parse(found.text, file=found.file, base=found.base)

    @classmethod
    def parse(cls, text: str, *, file: str = "unstale.toml") -> "Rules":
        """Parse the text of an ``unstale.toml``; raise `RuleErrors` with every mistake in it."""
        return cls._parse(text, file=file, base=())

    @classmethod
    def _parse(cls, text: str, *, file: str, base: toml_lines.Path) -> "Rules":
        try:
            parsed = toml_lines.Document.parse(text)
        except toml_lines.SyntaxMistake as mistake:
            line = text.splitlines()[mistake.line - 1] if mistake.line <= len(text.splitlines()) else ""
            remedy = "Correct the TOML; a pattern used as a key needs double quotes."
            error = RuleError(
                file=file, line=mistake.line, field="file", value=line, problem=mistake.problem, remedy=remedy
            )
            raise RuleErrors([error]) from None
        parser = RulesParser(parsed, file=file, base=base)
        watches, ttl, refreshes = parser.run()
        if parser.errors:
            raise RuleErrors(sorted(parser.errors, key=lambda error: error.line))
        patterns = {pattern for watch in watches for pattern in watch.patterns}
        return cls(
            file, watches, ttl, tables_of(watches), _hash(watches, ttl, refreshes, parser.reads),
            tuple(sorted(patterns)), refreshes, reads=parser.reads,
            unlearned_tables=parser.ignored_tables, unlearned_columns=parser.ignored_columns,
            unlearned_keys=parser.ignored_keys,
        )  # fmt: skip

    def require_watches(self) -> "Rules":
        """Return these rules; raise `RuleError` without a ``[[watch]]``, as nothing would be invalidated.

        A worker of such rules would lead and be ready while every cached value ages. ``unstale migration``
        accepts them: it writes that no table is watched any more.
        """
        if self.watches:
            return self
        raise RuleError(
            file=self.file,
            line=0,
            field="watch",
            value=[],
            problem="no [[watch]]: no change would invalidate a key",
            remedy="Write a [[watch]] for each table that cached values depend on, or name another file in "
            "UNSTALE_CONFIG; docs/rules.md describes it.",
        )

    def published(self) -> bytes:
        """Return what agents need to know, as the JSON that is stored in Redis."""
        own = self.watches[: len(self.watches) - len(self.kept)]
        return PublishedRules(
            self.hash, self.patterns, self.ttl, self._as_published.refresh, self.forms,
            meanings=meanings(self.watches, self.refreshes, self.reads),
            reads=self._as_published.reads,
            tables=tuple(dict.fromkeys(str(watch.table) for watch in self.watches)),
            watches=tuple(known for watch in own for known in watch.key_watches),
            kept=self.kept,
        ).encode()  # fmt: skip

    def typed(
        self,
        tables: Mapping[tuple[str, str], Mapping[str, str]],
        queries: Mapping[Watch, Mapping[str, str]],
    ) -> "Rules":
        """Return these rules with the `forms` of their keys. The hash stays: no cached value depends on them.

        Args:
            tables: The types of the columns of each table, by (schema, name) and column.
            queries: The types of the columns that fill the templates of a rule with a query.
        """
        forms: list[KeyForm] = []
        for watch in self.watches:
            if watch.query is None:
                types = tables.get((watch.table.schema, watch.table.name), {})
            else:
                types = queries.get(watch, {})
            for template in watch.keys:
                kinds = tuple(KINDS.get(types.get(column, ""), "") for column in template.columns)
                forms.append(KeyForm(template.pattern, template.literals, kinds))
        return replace(self, forms=tuple(usable(forms)))

    def refresh_of(self, key: str) -> RefreshSpec | None:
        """Return the first refresh in file order that matches ``key``, or None."""
        for spec in self.refreshes:
            if spec.matches(key):
                return spec
        return None

    def plan(
        self,
        schema: str,
        table: str,
        key_columns: Sequence[str],
        flat: Sequence[str | None] | None,
        into: Plan,
        causes: Sequence[int] | None = None,
    ) -> None:
        """Add the keys, patterns and queries of one outbox entry.

        A template or query adds its pattern instead if ``key_columns`` lacks one of its columns: the column
        was dropped, or an older capture wrote the entry. A table without rules adds nothing.

        Args:
            schema: The table's schema.
            table: Its name.
            key_columns: The columns of each row in ``flat``.
            flat: The values of all rows, row after row, None for a null. None instead of a sequence stands
                for the whole table: its rules add their patterns.
            into: The plan that receives keys, patterns and pending queries.
            causes: The number of the change of each row; None: 0 for all.
        """
        key = (schema, table, tuple(key_columns))
        steps = self._steps.get(key)
        if steps is None:
            own = (watch for watch in self.watches if (watch.table.schema, watch.table.name) == key[:2])
            steps = self._steps[key] = tuple(Step.of(watch, key_columns) for watch in own)
        if flat is None or not key_columns or len(flat) % len(key_columns):
            for step in steps:
                into.patterns.update(step.watch.patterns)
        elif flat:
            numbers = [0] * (len(flat) // len(key_columns)) if causes is None else causes
            for step in steps:
                step.run(flat, into, numbers)

    def renewals(self, keys: Iterable[str], purged: Collection[str] = ()) -> dict[str, Renewal]:
        """Return the renewal of each of ``keys`` that is refreshed or has a spare value.

        Being ``purged`` overrides the rest.
        """
        found: dict[str, Renewal] = {}
        for key in keys:
            spec = self.refresh_of(key)
            spare = round(self.spare(key) * 1000)
            if spec is not None or spare:
                renewal = PURGED if key in purged else NOT_REFRESHED if spec is None else spec.renewal
                found[key] = _with_spare(renewal, spare) if spare else renewal
        return found

    def older(self, key: str) -> tuple[float, float]:
        """Return ``soft_timeout`` and ``stale_if_error`` of ``key`` in seconds; 0 where there is none."""
        return self._as_published.reads_of(key) if self.reads else (0.0, 0.0)

    def spare(self, key: str) -> float:
        """Return the seconds for which a spare value of ``key`` is kept, as agents read it; 0: none is."""
        return self.older(key)[1]

    @property
    def keeps_older(self) -> bool:
        """True if an older value of any key may be kept after a change."""
        return self._as_published.keeps_older

    def __repr__(self) -> str:
        return (
            f"<Rules {self.file} watches={len(self.watches)} tables={len(self.tables)} hash={self.hash[:8]}>"
        )


@lru_cache
def _with_spare(renewal: Renewal, milliseconds: int) -> Renewal:
    return replace(renewal, spare_ms=milliseconds)


def tables_of(watches: Sequence[Watch]) -> dict[tuple[str, str], TableNeeds]:
    """Return the columns that the captures of the watched tables must deliver, by (schema, name)."""
    tables: dict[tuple[str, str], TableNeeds] = {}
    for table in sorted({watch.table for watch in watches}):
        own = [watch for watch in watches if watch.table == table]
        keys = {column for watch in own for column in watch.row_columns}
        columns: set[str] | None = set()
        for watch in own:
            columns = None if columns is None or watch.columns is None else columns | set(watch.columns)
        tables[table.schema, table.name] = TableNeeds(
            tuple(sorted(keys)), None if columns is None else tuple(sorted(columns))
        )
    return tables


def _hash(
    watches: Sequence[Watch],
    ttl: Sequence[tuple[str, float]],
    refreshes: Sequence[RefreshSpec],
    reads: Sequence[ReadSpec],
) -> str:
    """Hash everything that two processes must agree on; see `difference` for what each change costs."""
    rules = sorted(
        json.dumps(
            [
                *watch.normal[:2],
                sorted(template.text for template in watch.keys),
                *watch.normal[2:],
            ]
        )
        for watch in watches
    )
    content: list[object] = [RULES_VERSION, rules, list(ttl)]
    if refreshes:
        content.append([spec.normal for spec in refreshes])
    if reads:
        content.append({"reads": [spec.published for spec in reads]})
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

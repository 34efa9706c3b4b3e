"""``unstale explain``: the keys that a change of one row removes, planned by the worker's own planner."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final

from unstale.errors import ConfigurationError
from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import TAG
from unstale.protocol.tags import is_record
from unstale_worker.fanout.failure import FanoutFailure
from unstale_worker.leader.planning import plan_page
from unstale_worker.rules import Arguments, Plan, Rules, TableName, Watch
from unstale_worker.rules.identifiers import NameMistake
from unstale_worker.rules.template import Template
from unstale_worker.sources import OutboxEntry, Page, Source, WatchVersion

_WATCH: Final = 1
"""Number of the only watch of a made-up outbox entry."""


@dataclass(frozen=True, slots=True)
class KeyEffect:
    """One key that the change removes, and its life afterwards.

    Attributes:
        key: The key.
        ttl: Seconds of the first ``[ttl]`` pattern that matches it; None without one.
        ttl_pattern: That pattern.
        refresh_line: Line of the ``[refresh]`` that recomputes it; None if the next reader loads it.
        serve_stale: Seconds for which the old value may still be served.
        budgets: Budgets of the refresh, as text.
        over_budget: The effect when one is used up; None without one.
        stale_if_error: Seconds for which the last value may be answered when a reader's loader fails.
        soft_timeout: Seconds of a reader's load after which it may be; 0: never.
    """

    key: str
    ttl: float | None
    ttl_pattern: str | None
    refresh_line: int | None
    serve_stale: float
    budgets: tuple[str, ...] = ()
    over_budget: str | None = None
    stale_if_error: float = 0.0
    soft_timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """The effect of the change by one rule.

    Attributes:
        line: Line of the ``[[watch]]`` block.
        keys: Keys that the rule removes.
        tags: Tags that it invalidates.
        patterns: Patterns whose keys it removes, because a value cannot be part of a key.
        tag_patterns: The same for tags.
        query: Its fan-out query; None without one.
        arguments: The arguments of the query, one mapping of column and text for each row.
        failure: Why the query could not be run.
        purge: True if the keys are neither served stale nor refreshed.
        unknown: The templates that the row cannot fill, each with the columns that it lacks.
    """

    line: int
    keys: tuple[KeyEffect, ...]
    tags: tuple[str, ...]
    patterns: tuple[str, ...]
    tag_patterns: tuple[str, ...]
    query: str | None
    arguments: tuple[Mapping[str, str | None], ...]
    failure: str | None
    purge: bool
    unknown: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The effect of one change.

    Attributes:
        file: The rules file.
        table: The changed table.
        ignored: Why no capture reports this change; None if it is reported.
        rules: The effect by each rule of the table, in file order.
        misspelt: Columns of the row that no rule needs, each with the missing one that was probably meant.
        note: What was read from the database to complete the row, or why nothing was.
    """

    file: str
    table: str
    ignored: str | None
    rules: tuple[RuleEffect, ...]
    misspelt: tuple[tuple[str, str], ...] = ()
    note: str | None = None

    @property
    def keys(self) -> frozenset[str]:
        """All keys that the change removes."""
        return frozenset(effect.key for rule in self.rules for effect in rule.keys)


Row = Mapping[str, object]


async def explain(
    rules: Rules, table: str, row: Row, *, old: Row | None = None, source: Source | None
) -> Explanation:
    """Plan a change of ``table`` from ``old`` to ``row``; without ``old``, an insert or a delete of ``row``.

    A template whose columns the row lacks is listed as unknown. ``source`` runs the fan-out queries,
    read-only; it may be None unless `asks_database`. Raises `ConfigurationError` if no rule watches the
    table, or the row has no column that a rule needs.
    """
    name = watched_table(rules, table)
    needs = rules.tables[name.schema, name.name]
    rows = [row] if old is None else [old, row]
    given = tuple(column for column in needs.keys if all(column in each for each in rows))
    misspelt = _misspelt(rows, [column for column in needs.keys if column not in given])
    if needs.keys and not given:
        meant = "".join(f"; {wrong!r}: did you mean {right!r}?" for wrong, right in misspelt)
        raise ConfigurationError(
            f"the row has none of the columns that the rules of {name} need: {', '.join(needs.keys)}{meant}"
        )
    flat = [text for each in rows for text in captured_texts(each, given)]
    ignored = None if old is None else _ignored(old, row, needs.keys, needs.columns)
    fitting = [
        (watch, _fillable(watch, given)) for watch in rules.watches if watch.table == name and ignored is None
    ]
    planned = [(watch, *await _plan(rules, known, given, flat, source)) for watch, known in fitting]
    purged = {key for _, plan, _, _ in planned for key in plan.purged}
    effects = tuple(
        RuleEffect(
            watch.line,
            tuple(_key_effect(rules, key, purged=key in purged) for key in plan.keys if not is_record(key)),
            _tags(plan.keys),
            tuple(sorted(pattern for pattern in plan.patterns if not is_record(pattern))),
            _tags(sorted(plan.patterns)),
            None if watch.query is None else watch.query.text,
            tuple(dict(zip(watch.row_columns, row, strict=True)) for row in asked),
            str(failures[0]) if failures else None,
            watch.purge,
            _unknown(watch, given),
        )
        for watch, plan, asked, failures in planned
    )
    return Explanation(rules.file, str(name), ignored, effects, misspelt)


def watched_table(rules: Rules, text: str) -> TableName:
    """Return the table that ``text`` names; raises `ConfigurationError` if no rule watches it."""
    try:
        name = TableName.parse(text)
    except NameMistake as mistake:
        raise ConfigurationError(f"{text!r}: {mistake}") from None
    if (name.schema, name.name) not in rules.tables:
        known = [str(TableName(*table)) for table in rules.tables]
        near = get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"watched are {', '.join(known) or 'no tables'}"
        raise ConfigurationError(
            f"no rule of {rules.file} watches {name}, so a change removes nothing; {hint}"
        )
    return name


def asks_database(rules: Rules, table: TableName, row: Row) -> bool:
    """Return True if a rule of ``table`` has a fan-out query that the row suffices for."""
    return any(
        watch.query is not None and all(column in row for column in watch.row_columns)
        for watch in rules.watches
        if watch.table == table
    )


def read_row(text: str) -> Row:
    """Read a row from JSON; raises `ConfigurationError`."""
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ConfigurationError(f"the row {text[:80]!r} is not a JSON object; write it as '{{\"id\": 42}}'")
    return row


def captured_texts(row: Row, columns: tuple[str, ...]) -> list[str | None]:
    """Return the values of ``columns`` as a capture writes them; raises `ConfigurationError`."""
    texts: list[str | None] = []
    for column in columns:
        if column not in row:
            raise ConfigurationError(
                f"the row has no column {column!r}; the rules of its table need {', '.join(columns)}"
            )
        value = row[column]
        if value is not None and not isinstance(value, str | int):
            raise ConfigurationError(
                f"the column {column!r} is {json.dumps(value)[:80]}; a key column is text, a whole number, "
                "true, false or null"
            )
        texts.append(None if value is None else str(value))
    return texts


def _lacking(watch: Watch, template: Template, given: Collection[str]) -> tuple[str, ...]:
    """Return the columns that the template, or the query that fills it, lacks."""
    needed = template.columns if watch.query is None else watch.row_columns
    return tuple(sorted({column for column in needed if column not in given}))


def _fillable(watch: Watch, given: Collection[str]) -> Watch:
    """Return the rule with the templates that the columns can fill."""
    return replace(watch, keys=tuple(each for each in watch.keys if not _lacking(watch, each, given)))


def _unknown(watch: Watch, given: Collection[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((each.text, lacking) for each in watch.keys if (lacking := _lacking(watch, each, given)))


def _misspelt(rows: Iterable[Row], missing: list[str]) -> tuple[tuple[str, str], ...]:
    """Return the columns of the rows that resemble a missing one, each with that."""
    columns = dict.fromkeys(column for row in rows for column in row)
    near = ((column, get_close_matches(column, missing, n=1, cutoff=0.75)) for column in columns)
    return tuple((column, found[0]) for column, found in near if found and found[0] != column)


def _ignored(old: Row, new: Row, keys: tuple[str, ...], columns: tuple[str, ...] | None) -> str | None:
    """Return why the column filter of the table leaves an update out; None if it does not, or may not."""
    if columns is None:
        return None
    compared = sorted({*keys, *columns})
    if any(column not in old or column not in new for column in compared):
        return None
    if any(old[column] != new[column] for column in compared):
        return None
    return f"none of the columns that the rules count has changed: {', '.join(compared)}"


class _OneVersion:
    """The only version of the only watch."""

    def __init__(self, version: WatchVersion) -> None:
        self._version = version

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        return self._version


async def _plan(
    rules: Rules, watch: Watch, columns: tuple[str, ...], flat: list[str | None], source: Source | None
) -> tuple[Plan, list[Arguments], list[FanoutFailure]]:
    """Return the plan of one rule, the arguments that its query was asked with, and its failures."""
    if not watch.keys:
        return Plan(), [], []
    alone = replace(rules, watches=(watch,), _steps={})
    version = _OneVersion(WatchVersion(watch.table.schema, watch.table.name, columns))
    plan = await plan_page(_page(OutboxEntry(_WATCH, 1, flat)), alone, version)
    asked = sorted(plan.queries.get(watch, ()), key=repr)
    if not asked:
        return plan, asked, []
    assert source is not None
    return plan, asked, await source.run_queries(alone, plan)


def _tags(names: Iterable[str]) -> tuple[str, ...]:
    """Return the tags, or their globs, whose records are among ``names``."""
    return tuple(name.removeprefix(TAG) for name in names if is_record(name))


def _key_effect(rules: Rules, key: str, *, purged: bool) -> KeyEffect:
    refresh = None if purged else rules.refresh_of(key)
    soft, spare = (0.0, 0.0) if purged else rules.older(key)
    pattern, ttl = PublishedRules(ttl=rules.ttl).ttl_pattern(key) or (None, None)
    return KeyEffect(
        key,
        ttl,
        pattern,
        None if refresh is None else refresh.line,
        0.0 if refresh is None else refresh.serve_stale,
        () if refresh is None else tuple(map(str, refresh.budgets)),
        refresh.over_budget if refresh is not None and refresh.budgets else None,
        spare,
        soft,
    )


def _page(*entries: OutboxEntry) -> Page:
    return Page(
        database="", snapshot="1:1:", position="1:1:", more=False, cursor=None, lsn="", flushed="",
        covered=True, current_xmax=1, entries=entries, began=0.0,
    )  # fmt: skip

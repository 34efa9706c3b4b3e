"""Compares what the captures of a database report with what the rules need. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unstale_worker.rules import Rules, TableName, TableNeeds
from unstale_worker.sources import WatchState

PROBLEMS = ("disabled", "missing", "whole table")
RESTART = "restart this process with the rules that the newest migration was written for"
WATCH = "run `unstale migration --all` and push"


@dataclass(frozen=True, slots=True)
class Coverage:
    """The state of the captures of the rules' tables, with a sentence for each that is incomplete or coarse.

    Attributes:
        broken: Tables of which changes may stay unreported.
        coarse: Tables of which a change invalidates more keys than it concerns.
    """

    broken: Mapping[TableName, str] = field(default_factory=dict)
    coarse: Mapping[TableName, str] = field(default_factory=dict)

    def problems(self) -> frozenset[tuple[str, str]]:
        """Return each table with the kind of its problem: one of `PROBLEMS`.

        A capture that is not disabled but reports nothing, or less than the rules need, counts as missing.
        """
        broken = {
            (str(table), "disabled" if "is disabled" in why else "missing")
            for table, why in self.broken.items()
        }
        return frozenset(broken | {(str(table), "whole table") for table in self.coarse})


def coverage(rules: Rules, captures: Iterable[WatchState]) -> Coverage:
    """Compare the rules with the state of all watches."""
    current: dict[tuple[str, str], WatchState] = {}
    past: dict[tuple[str, str], WatchState] = {}
    for capture in captures:
        (current if capture.current else past)[capture.schema, capture.table] = capture
    broken: dict[TableName, str] = {}
    coarse: dict[TableName, str] = {}
    for (schema, name), needs in rules.tables.items():
        table = TableName(schema, name)
        watched = current.get((schema, name))
        if watched is None:
            before = past.get((schema, name))
            reason = before.broken if before is not None else None
            broken[table] = reason or f"it is not watched; {WATCH}, or {RESTART}"
            continue
        if watched.broken:
            broken[table] = watched.broken
        elif narrower := narrower_filter(needs, watched.key_columns, watched.columns):
            broken[table] = f"its capture {narrower}; {RESTART}"
        if watched.coarse:
            coarse[table] = watched.coarse
        elif lacking := missing_columns(needs, watched.key_columns):
            coarse[table] = f"its capture lacks {', '.join(lacking)}; {RESTART}"
    return Coverage(broken, coarse)


def missing_columns(needs: TableNeeds, key_columns: Sequence[str]) -> list[str]:
    """Return the columns that keys or queries need and that a capture does not write, sorted."""
    return sorted(set(needs.keys) - set(key_columns))


def narrower_filter(
    needs: TableNeeds, key_columns: Sequence[str], columns: Sequence[str] | None
) -> str | None:
    """Return the end of a sentence if a capture leaves out changes that the rules need, else None."""
    if columns is None or (needs.columns is not None and set(needs.columns) <= {*columns, *key_columns}):
        return None
    return f"only captures changes of {', '.join(columns)}"

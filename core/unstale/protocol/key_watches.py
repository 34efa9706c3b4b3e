"""Watches as one worker publishes them for the next: the table, and one template of its keys. Pure.

A worker with other rules keeps those that it lacks for a while, for agents that still use the keys. No SQL is
published: a worker runs no query that it finds in Redis.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

KEPT_SIGN: Final = "+"
"""Stands in a hash of rules between that of the rules file and that of the former watches beside it."""


class KeyWatch(NamedTuple):
    """One ``[[watch]]`` with one of its templates.

    Attributes:
        schema: The schema of the table.
        table: Its name.
        columns: Only changes of these columns count, sorted; None: any change.
        query: Hash of the fan-out query; '' if the changed row fills the template.
        template: The template as written; that of a tag begins as the key of its record does.
        purge: True if its keys are never served stale.
    """

    schema: str
    table: str
    columns: tuple[str, ...] | None
    query: str
    template: str
    purge: bool = False

    def includes(self, other: "KeyWatch") -> bool:
        """Return True if this watch invalidates the same keys for every change that ``other`` counts."""
        same = self._replace(columns=None, purge=False) == other._replace(columns=None, purge=False)
        return same and (
            self.columns is None or (other.columns is not None and set(other.columns) <= set(self.columns))
        )


class Kept(NamedTuple):
    """A watch that is not in the rules any more, and that the leader still applies.

    Attributes:
        watch: The watch.
        alone: The glob of its keys if no template of the rules file has the same, else ''. Agents that read
            such keys still use the former rules.
        since: Unix time, by the clock of Redis, at which rules without it were put in force.
    """

    watch: KeyWatch
    alone: str
    since: float


def file_hash(rules: str) -> str:
    """Return the hash of the rules file, from a hash of rules that may have former watches beside it."""
    return rules.partition(KEPT_SIGN)[0]


def encoded(watches: Iterable[KeyWatch]) -> list[list[object]]:
    """Return JSON-ready values."""
    return [[*watch] for watch in watches]


def encoded_kept(kept: Iterable[Kept]) -> list[list[object]]:
    """Return JSON-ready values."""
    return [[[*each.watch], each.alone, each.since] for each in kept]


def decoded(data: object) -> tuple[KeyWatch, ...]:
    """Return the watches; what is not legible is left out, and then not kept."""
    return tuple(watch for each in _list(data) if (watch := _watch(each)) is not None)


def decoded_kept(data: object) -> tuple[Kept, ...]:
    """Return the former watches; what is not legible is left out."""
    found = []
    for each in _list(data):
        match each:
            case [watch, str() as alone, int() | float() as since] if 0 < since < 1e11:
                if (known := _watch(watch)) is not None:
                    found.append(Kept(known, alone, float(since)))
    return tuple(found)


def _list(data: object) -> list[object]:
    return data if isinstance(data, list) else []


def _watch(data: object) -> KeyWatch | None:
    match data:
        case [str() as schema, str() as table, columns, str() as query, str() as template, bool() as purge]:
            if columns is None:
                return KeyWatch(schema, table, None, query, template, purge)
            names = tuple(column for column in _list(columns) if isinstance(column, str))
            if names and len(names) == len(_list(columns)):
                return KeyWatch(schema, table, names, query, template, purge)
    return None

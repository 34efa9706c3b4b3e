"""Columns that loaders read and that ``columns`` of the rules leaves out. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from unstale.companion.recording.reading import Table
from unstale_worker.rules import Rules, TableName
from unstale_worker.rules.identifiers import display


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Columns of a table that the loader of a key reads, and of which no change invalidates the key.

    It may be meant: a column that only changes together with others needs no rule.

    Attributes:
        keys: The keys, ``*`` for what varies.
        table: The table.
        columns: The columns, sorted.
        statement: The beginning of the first statement that reads one of them.
    """

    keys: str
    table: str
    columns: tuple[str, ...]
    statement: str

    @property
    def remedy(self) -> str:
        """The remedy, as a sentence without a full stop."""
        names = " and ".join(f"{self.table}.{display(column)}" for column in self.columns)
        return (
            f"add what changes by itself to columns of a rule, or name {names} in ignore_columns of [learn]"
        )

    def __str__(self) -> str:
        names = ", ".join(map(display, self.columns))
        return (
            f"{self.keys} reads {names} of {self.table}, which columns of its rules leaves out: "
            f"{self.statement}"
        )


def left_out(rules: Rules, table: Table, columns: Iterable[str]) -> set[str]:
    """Return those of ``columns`` of which no change counts, though rules watch the table.

    A change counts for all rules of a table if it counts for one, so their columns are taken together.
    """
    name, needs = TableName(table.schema, table.name), rules.tables.get((table.schema, table.name))
    if needs is None or needs.columns is None or name in rules.unlearned_tables:
        return set()
    ignored = {column.name for column in rules.unlearned_columns if column.table == name}
    return set(columns) - {*needs.columns, *needs.keys} - ignored

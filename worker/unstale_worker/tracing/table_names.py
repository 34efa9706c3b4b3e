"""Names for the tables and rules that a reason in the log speaks of, from the rules file. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from unstale.protocol.globs import matches
from unstale.protocol.reasons import OPERATION_NAMES, Cause, Reason, table_number
from unstale_worker.rules import Rules, TableName, Watch


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one kind in one log entry.

    Attributes:
        table: The table.
        operation: ``insert``, ``update``, ``delete``, ``truncate``, or ``change`` if that is not known.
        count: How many changes.
    """

    table: str
    operation: str
    count: int


class TableNames:
    """Turns table numbers into names.

    Args:
        rules: The rules; without them a table is shown as its number.
    """

    def __init__(self, rules: Rules | None) -> None:
        self._rules = rules
        self._names: dict[int, list[TableName]] = {}
        for schema, table in rules.tables if rules is not None else ():
            self._names.setdefault(table_number(schema, table), []).append(TableName(schema, table))

    def name(self, number: int, key: str | None = None) -> str:
        """Return the name of a table; if two have the number, the one whose rules own ``key``."""
        found = self._names.get(number, [])
        owning = [name for name in found if key is not None and self.lines(str(name), key)]
        return str((owning or found)[0]) if found else f"table number {number}, which no rule here watches"

    def owns(self, number: int, pattern: str) -> bool:
        """Return True if a rule of the table has this pattern."""
        assert self._rules is not None
        return any(
            watch.table in self._names.get(number, ()) and pattern in watch.patterns
            for watch in self._rules.watches
        )

    def lines(self, table: str, key: str) -> tuple[int, ...]:
        """Return the lines of the table's rules that own ``key``."""
        watches: Iterable[Watch] = self._rules.watches if self._rules is not None else ()
        return tuple(
            watch.line
            for watch in watches
            if str(watch.table) == table and any(matches(pattern, key) for pattern in watch.patterns)
        )

    def changes(self, reason: Reason | None) -> tuple[Changes, ...]:
        """Return the changes of a log entry, summed up by table and operation."""
        causes: tuple[Cause, ...] = () if reason is None else reason.causes
        counted = Counter((self.name(cause.table), OPERATION_NAMES[cause.operation]) for cause in causes)
        return tuple(Changes(table, operation, count) for (table, operation), count in counted.items())

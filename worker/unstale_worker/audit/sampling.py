"""Draws rows of the watched tables at random, to compare keys that have not changed for a long time."""

import asyncpg

from unstale_worker.audit.agenda import Agenda
from unstale_worker.audit.changes import keys_of_rows
from unstale_worker.rules import PythonLoader, Rules, TableName
from unstale_worker.rules.identifiers import quote_identifier
from unstale_worker.rules.refresh import overlap
from unstale_worker.runtime.postgres_errors import ends_session, translate_errors
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.sql import statement
from unstale_worker.sql.text import fill, qualified

BLOCKS = 8
"""Blocks of 8 kB that one draw reads."""
ROWS = 200
"""Most rows of one draw."""


class Sampling:
    """Adds keys of random rows to the agenda, one table at a time.

    Attributes:
        problems: Tables that could not be sampled, with the reason.
    """

    def __init__(self, rules: Rules, source: OutboxSource, agenda: Agenda) -> None:
        self._rules, self._source, self._agenda = rules, source, agenda
        self._tables = [
            table for table in (TableName(*name) for name in rules.tables) if _leads_to_audited(rules, table)
        ]
        self.problems: dict[str, str] = {}

    @property
    def tables(self) -> int:
        """Number of tables to draw from."""
        return len(self._tables)

    async def draw(self) -> None:
        """Draw from the next table; raises `Unavailable`."""
        if not self._tables:
            return
        table = self._tables[0]
        try:
            rows = await self._rows(table)
        except asyncpg.PostgresError as error:
            self._tables.remove(table)
            self.problems[str(table)] = f"its rows cannot be read ({type(error).__name__})"
            return
        self._tables.append(self._tables.pop(0))
        for key in await keys_of_rows(self._rules, self._source, table, rows):
            self._agenda.met(key, str(table))

    async def _rows(self, table: TableName) -> list[str]:
        """Return random rows as JSON; raises what Postgres refuses."""
        columns = self._rules.tables[table.schema, table.name].keys
        sql = fill(
            "audit_sample",
            columns=", ".join(f'"unstale table".{quote_identifier(column)}' for column in columns),
            table=qualified(table.schema, table.name),
        )
        refused: asyncpg.PostgresError | None = None
        async with translate_errors(), self._source.borrow() as connection:
            try:
                blocks = await connection.fetchval(statement("audit_size"), table.schema, table.name)
                if blocks is None:
                    return []
                percent = min(100.0, 100.0 * BLOCKS / max(1, blocks))
                async with connection.transaction(readonly=True):
                    await connection.fetchrow(statement("fanout_session"), "on")  # hidden rows are not drawn
                    return [row["row"] for row in await connection.fetch(sql, percent, ROWS)]
            except asyncpg.PostgresError as error:
                if ends_session(error) or connection.is_closed():
                    raise
                refused = error
        raise refused


def _leads_to_audited(rules: Rules, table: TableName) -> bool:
    """Return True if a change of the table may remove a key that an audit compares."""
    audited = [spec.template for spec in rules.refreshes if not isinstance(spec.loader, PythonLoader)]
    watched = [template for watch in rules.watches if watch.table == table for template in watch.keys]
    return any(overlap(refresh, template) for refresh in audited for template in watched)

"""Read what a row lacks from the database, by its primary key, for ``unstale explain``."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import asyncpg

from unstale.errors import UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.rules import TableName
from unstale_worker.rules.identifiers import quote_identifier
from unstale_worker.runtime.logs import without_passwords
from unstale_worker.runtime.postgres_errors import CONNECTION_ERRORS
from unstale_worker.sources.postgres_connections import PostgresConnections, end_session
from unstale_worker.sql import statement
from unstale_worker.sql.text import fill, qualified


class Completed(NamedTuple):
    """A row, and what the database added to it.

    Attributes:
        row: The row.
        note: What was read, or why nothing was; None if there was nothing to ask.
    """

    row: Mapping[str, object]
    note: str | None


async def completed(
    settings: WorkerSettings, table: TableName, row: Mapping[str, object], needed: Sequence[str]
) -> Completed:
    """Add the ``needed`` columns that the row lacks, if it has the primary key and Postgres answers."""
    lacking = [column for column in needed if column not in row]
    if not lacking or not row or settings.postgres is None:
        return Completed(row, None)
    connection = None
    try:
        connection = await PostgresConnections(settings.postgres.dsn, settings.database_timeout).open()
        return await _completed(connection, table, row, lacking)
    except (UnstaleError, asyncpg.PostgresError, asyncpg.InterfaceError, *CONNECTION_ERRORS) as error:
        why = without_passwords(str(error)).partition("\n")[0]
        return Completed(row, f"{', '.join(lacking)} could not be read from the database: {why}")
    finally:
        await end_session(connection)


async def _completed(
    connection: asyncpg.Connection, table: TableName, row: Mapping[str, object], lacking: Sequence[str]
) -> Completed:
    key = await connection.fetch(statement("primary_key"), table.schema, table.name)
    if not key or any(row.get(column["name"]) is None for column in key):
        return Completed(row, None)
    values = [str(row[column["name"]]) for column in key]
    found = await connection.fetchval(
        fill(
            "explain_row",
            columns=", ".join(map(quote_identifier, lacking)),
            table=qualified(table.schema, table.name),
            conditions=" and ".join(
                f"{quote_identifier(column['name'])} operator(pg_catalog.=) ${number}::text::{column['type']}"
                for number, column in enumerate(key, start=1)
            ),
        ),
        *values,
    )
    where = ", ".join(f"{column['name']} = {value}" for column, value in zip(key, values, strict=True))
    if found is None:
        return Completed(row, f"the database has no row of {table} with {where}")
    read = json.loads(found)
    shown = ", ".join(f"{column} = {json.dumps(read[column])[:60]}" for column in lacking)
    return Completed({**row, **read}, f"read from the database: {shown}")

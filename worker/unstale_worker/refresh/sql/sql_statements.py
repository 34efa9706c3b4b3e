"""Builds the statement that loads the values of many keys at once, for a ``row`` or ``sql`` loader."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from unstale_worker.rules.identifiers import TableName, display, quote_identifier
from unstale_worker.rules.query import Query
from unstale_worker.rules.refresh import RefreshSpec, RowLoader, SqlLoader
from unstale_worker.sql import statement
from unstale_worker.sql.text import fill, qualified

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

SOLE_COLUMN: Final = "value"
"""Name of the only column of a query that returns the value itself; other queries return an object."""


class LoaderProblem(Exception):
    """A loader's statement cannot be built, or not be run for the keys that it was given.

    Attributes:
        problem: What is wrong, without row values, as a sentence without its full stop.
        remedy: What to do about it, as a sentence.
        slow: True if it took too long.
        of_key: Both in the case that a single key is to blame.
    """

    def __init__(self, problem: str, remedy: str, *, slow: bool = False, of_key: str = "") -> None:
        self.problem, self.remedy, self.slow = problem, remedy, slow
        super().__init__(f"{problem}. {remedy}")
        self.of_key = of_key or f"for this key: {self}"


@dataclass(frozen=True, slots=True)
class Statement:
    """Text of a statement.

    Attributes:
        sql: Takes the keys' numbers, then an array of texts for each of ``fields``; returns number and JSON,
            and number -1 with the name of a table whose policies may have hidden rows.
        plain: The same without such names.
        fields: The fields of the key that it needs, in the order of its parameters.
    """

    sql: str
    plain: str
    fields: tuple[str, ...]


async def statement_for(connection: Connection, spec: RefreshSpec) -> Statement:
    """Return the statement for ``spec``, with the column types of now; raises `LoaderProblem`."""
    match spec.loader:
        case RowLoader():
            return await _row(connection, spec.loader)
        case SqlLoader(query):
            return await _query(connection, query)
        case _:
            raise AssertionError(f"{spec.loader} is not loaded with SQL")


async def _row(connection: Connection, loader: RowLoader) -> Statement:
    types = await _column_types(connection, loader.table)
    chosen = loader.columns if loader.columns is not None else ()
    if missing := [column for column in (*(c for c, _ in loader.key), *chosen) if column not in types]:
        raise LoaderProblem(
            f"{loader.table} has no column {', '.join(map(display, missing))}",
            "Correct the refresh's columns.",
        )
    given = [f'"unstale {number}"' for number in range(len(loader.key))]
    sql = fill(
        "refresh_row",
        parameters=_parameters(len(given)),
        names="".join(f", {name}" for name in given),
        columns=", ".join(f'"unstale table".{quote_identifier(column)}' for column in chosen)
        or '"unstale table".*',
        table=qualified(loader.table.schema, loader.table.name),
        conditions=" and ".join(
            f'"unstale table".{quote_identifier(column)} = "unstale given".{name}::{types[column]}'
            for (column, _), name in zip(loader.key, given, strict=True)
        ),
    )
    return _statement(sql, tuple(field for _, field in loader.key))


async def _query(connection: Connection, query: Query) -> Statement:
    """Return the statement of a query; Postgres infers the types of its placeholders from the query alone."""
    numbers = {column: f"${number}" for number, column in enumerate(query.columns, 1)}
    prepared = await connection.prepare(query.written(numbers))
    types = [
        await connection.fetchval(statement("refresh_type"), parameter.oid)
        for parameter in prepared.get_parameters()
    ]
    columns = [attribute.name for attribute in prepared.get_attributes()]
    given = [f'"unstale {number}"' for number in range(len(types))]
    found = '"unstale found"'
    sql = fill(
        "refresh_query",
        value=f"pg_catalog.to_jsonb({found}.{quote_identifier(SOLE_COLUMN)})"
        if columns == [SOLE_COLUMN]
        else f"pg_catalog.to_jsonb({found})",
        parameters=_parameters(len(given)),
        names="".join(f", {name}" for name in given),
        casts="".join(
            f', "unstale given".{name}::{kind} as {quote_identifier(column)}'
            for name, kind, column in zip(given, types, query.columns, strict=True)
        ),
        query=query.bound(),
    )
    return _statement(sql, query.columns)


def _statement(sql: str, fields: tuple[str, ...]) -> Statement:
    return Statement(fill("refresh_looked", hidden=statement("fanout_hidden"), loaded=sql), sql, fields)


async def _column_types(connection: Connection, table: TableName) -> dict[str, str]:
    found = await connection.fetch(statement("column_types"), table.schema, table.name)
    if not found:
        raise LoaderProblem(f"there is no table {table}", "Correct the refresh's table.")
    return {record["name"]: record["type"] for record in found}


def _parameters(count: int) -> str:
    return "".join(f", ${number}::text[]" for number in range(2, count + 2))

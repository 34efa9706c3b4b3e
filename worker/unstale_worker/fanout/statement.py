"""A rule's fan-out query as an SQL statement: its text, its results, and the failures of both."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

import asyncpg

from unstale_worker.fanout.failure import CAST_REMEDY, FanoutFailure, QueryFailed
from unstale_worker.rules import Arguments, Watch
from unstale_worker.rules.identifiers import display, quote_identifier
from unstale_worker.rules.template import columns_of
from unstale_worker.sql import statement
from unstale_worker.sql.text import fill

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

KEY_TYPES: Final = frozenset(
    {"int2", "int4", "int8", "oid", "text", "varchar", "bpchar", "name", "uuid", "bool"}
)
"""Types of ``pg_catalog`` whose values may be part of a key."""
_PYTHON_TYPES: Final = (str, int, bool, UUID, type(None))


async def statement_for(connection: "Connection", watch: Watch) -> str:
    """Build the statement for ``watch``, with casts to the columns' current types; raises `QueryFailed`."""
    assert watch.query is not None
    table = watch.table
    found = await connection.fetch(statement("column_types"), table.schema, table.name)
    types: Mapping[str, str] = {record["name"]: record["type"] for record in found}
    if not types:
        raise QueryFailed(
            FanoutFailure(watch, f"the table {table} does not exist", "Correct the rule's table.", "42P01")
        )
    if missing := [column for column in watch.row_columns if column not in types]:
        either = "" if set(missing) & set(watch.query.columns) else "neither the query nor "
        problem = f"{either}{table} has {'a' if either else 'no'} column {', '.join(map(display, missing))}"
        remedy = "Add it to the select list." if either else "Correct the placeholder."
        raise QueryFailed(FanoutFailure(watch, problem, remedy, "42703"))
    given = [f'"unstale {number}"' for number in range(len(watch.row_columns))]
    casts = [f"{name}::{types[column]}" for name, column in zip(given, watch.row_columns, strict=True)]
    named = [
        f"{cast} as {quote_identifier(column)}" for cast, column in zip(casts, watch.row_columns, strict=True)
    ]
    return fill(
        "fanout",
        given="".join(f"{name}, " for name in given),
        parameters="".join(f", ${number}::text[]" for number in range(2, len(given) + 2)),
        names="".join(f", {name}" for name in given),
        casts="".join(f", {cast}" for cast in named),
        query=watch.query.bound(),
    )


def values_of(watch: Watch, records: Sequence[asyncpg.Record]) -> dict[str, list[str | None]]:
    """Return the values for the templates; columns of the query win over the row's.

    Raises `QueryFailed`.
    """
    values: dict[str, list[str | None]] = {}
    for column, place in _places(watch, list(records[0].keys())).items():
        answers = [record[place] for record in records]
        if not all(issubclass(kind, _PYTHON_TYPES) for kind in set(map(type, answers))):
            raise QueryFailed(
                FanoutFailure(
                    watch, f"{display(column)} has a type that cannot be part of a key", CAST_REMEDY
                )
            )
        values[column] = [None if answer is None else str(answer) for answer in answers]
    return values


def causes_of(
    watch: Watch, records: Sequence[asyncpg.Record], asked: Mapping[Arguments, int]
) -> Sequence[int]:
    """Return the cause of each record; a record begins with the arguments that found it."""
    if len(known := set(asked.values())) == 1:
        return [*known] * len(records)
    own = len(watch.row_columns)
    return [asked[tuple(record)[:own]] for record in records]


def _places(watch: Watch, names: Sequence[str]) -> dict[str, int]:
    """Return the index of each template column in the result; raises `QueryFailed` if one is missing."""
    own = len(watch.row_columns)
    places = {column: at for at, column in enumerate(watch.row_columns)}
    places.update({name: at for at, name in enumerate(names) if at >= own})
    wanted = columns_of(watch.keys)
    if missing := [column for column in wanted if column not in places]:
        problem = f"it returns no column {', '.join(map(display, missing))}, which the keys need"
        raise QueryFailed(FanoutFailure(watch, problem, "Add it to the select list."))
    return {column: places[column] for column in wanted}


def check_columns(watch: Watch, attributes: Sequence[asyncpg.Attribute]) -> dict[str, str]:
    """Return the types of the columns for the templates; '' for a type that is not built in.

    Raises `QueryFailed` for a missing column, or a column whose type cannot be part of a key.
    """
    types: dict[str, str] = {}
    for column, place in _places(watch, [attribute.name for attribute in attributes]).items():
        kind = attributes[place].type
        if kind.kind != "scalar" or (kind.schema == "pg_catalog" and kind.name not in KEY_TYPES):
            problem = f"{display(column)} has the type {kind.name}, which cannot be part of a key"
            raise QueryFailed(FanoutFailure(watch, problem, CAST_REMEDY))
        types[column] = kind.name if kind.schema == "pg_catalog" else ""
    return types


def failure_of(watch: Watch, error: asyncpg.PostgresError) -> FanoutFailure:
    """Describe an error of Postgres without row values."""
    code: str = error.sqlstate or "XX000"
    if code == "42501":
        remedy = "Grant the worker's role the right: run `unstale migration` and push the file it writes."
        return FanoutFailure(watch, str(error), remedy, code)
    if code.startswith("42"):  # names and syntax; messages of other classes quote row values
        return FanoutFailure(watch, str(error), "Correct the query, or create the objects it names.", code)
    return FanoutFailure(
        watch, f"Postgres refused it ({type(error).__name__})", "Run it by hand to see why.", code
    )

"""Runs the rules' fan-out queries: pending arguments become keys.

A query that cannot be asked or answered costs its rule's patterns and is reported; the rest goes on. A
connection that breaks is no failure of a query: it is raised, and the batch is read again.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg

from unstale_worker.rules import Plan, Rules, Watch
from unstale_worker.rules.identifiers import display, quote_identifier
from unstale_worker.rules.template import columns_of
from unstale_worker.sql import statement
from unstale_worker.sqltext import fill

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

ARGUMENTS_A_RUN: Final = 1_000
"""Changed rows a statement is run for at once: their arguments (512 bytes each) stay below a few MB."""

ROWS_A_FETCH: Final = 2_000
"""Rows the cursor brings at once; all that is held of an answer besides the keys made of it."""

MAX_ROWS: Final = 100_000
"""A query that returns more for one batch has its patterns invalidated: one scan is cheaper by then."""

TIMEOUT_SECONDS: Final = 10.0
"""Longest time one run may take. While it runs no other change is applied."""

_BUILTIN_TYPES: Final = frozenset(
    {"int2", "int4", "int8", "oid", "text", "varchar", "bpchar", "name", "uuid", "bool"}
)
_PYTHON_TYPES: Final = (str, int, bool, UUID, type(None))
_CAST_REMEDY: Final = "Return integers, text, uuid, bool or enums; cast the rest in the query: x::text."


@dataclass(frozen=True, slots=True)
class FanoutFailure:
    """A rule's query that could not be run; its patterns were invalidated instead.

    Attributes:
        watch: The rule.
        problem: What went wrong, without row values.
        remedy: What to do about it, as a sentence.
        code: Postgres' SQLSTATE, or None if the failure is not the server's.
    """

    watch: Watch
    problem: str
    remedy: str
    code: str | None = None

    def __str__(self) -> str:
        return f"line {self.watch.line}, query for {self.watch.table}: {self.problem}. {self.remedy}"


async def run_queries(
    connection: "Connection",
    rules: Rules,
    plan: Plan,
    *,
    max_rows: int = MAX_ROWS,
    timeout: float = TIMEOUT_SECONDS,
) -> list[FanoutFailure]:
    """Run the queries pending in ``plan`` and move them into its keys and patterns.

    Each query runs once for up to `ARGUMENTS_A_RUN` changed rows, in a read-only transaction of its own, so
    it sees at least the changes of the batch. Afterwards ``plan.queries`` is empty.

    Args:
        connection: A session that is in no transaction, with ``row_security = off``.
        rules: The rules that ``plan`` was made with.
        plan: The plan to complete.
        max_rows: Rows a rule may return for this batch before its patterns are invalidated instead.
        timeout: Seconds one run may take.

    Returns:
        What failed. The plan is complete all the same.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError: The connection
            is gone; ``plan`` is then not complete and must be made again.
    """
    failures: list[FanoutFailure] = []
    for watch in [watch for watch in rules.watches if watch in plan.queries]:
        try:
            await _run(connection, watch, plan, max_rows=max_rows, timeout=timeout)
        except _Failed as failed:
            plan.patterns.update(watch.patterns)
            failures.append(failed.failure)
        del plan.queries[watch]
    return failures


async def check_queries(
    connection: "Connection", rules: Rules, *, timeout: float = TIMEOUT_SECONDS
) -> list[FanoutFailure]:
    """Prepare every query and run it for no row: finds wrong SQL, missing rights and hiding policies.

    For the worker's start and ``unstale doctor``; changes nothing. Raises as `run_queries` does.
    """
    failures: list[FanoutFailure] = []
    for watch in rules.watches:
        if watch.query is None:
            continue
        try:
            async with _transaction(connection, watch, timeout):
                prepared = await connection.prepare(await _statement(connection, watch))
                _check_columns(watch, prepared.get_attributes())
                await prepared.fetch([], *([] for _ in watch.row_columns))
        except _Failed as failed:
            failures.append(failed.failure)
    return failures


class _Failed(Exception):
    def __init__(self, failure: FanoutFailure) -> None:
        self.failure = failure
        super().__init__(str(failure))


async def _run(connection: "Connection", watch: Watch, plan: Plan, *, max_rows: int, timeout: float) -> None:
    """Run one rule's query for all its arguments; raises `_Failed`."""
    pending = list(plan.queries[watch])
    seen = 0
    for start in range(0, len(pending), ARGUMENTS_A_RUN):
        rows = pending[start : start + ARGUMENTS_A_RUN]
        columns: list[list[str | None]] = [list(column) for column in zip(*rows, strict=True)]
        async with _transaction(connection, watch, timeout):
            statement = await _statement(connection, watch)
            cursor = await connection.cursor(statement, list(range(len(rows))), *columns)
            while found := await cursor.fetch(ROWS_A_FETCH):
                seen += len(found)
                if seen > max_rows:
                    plan.patterns.update(watch.patterns)
                    return
                watch.expand(_values(watch, found), plan)


@asynccontextmanager
async def _transaction(connection: "Connection", watch: Watch, timeout: float) -> AsyncIterator[None]:
    """A read-only transaction with a deadline, in which the query's own errors become `_Failed`."""
    try:
        async with asyncio.timeout(timeout), connection.transaction(readonly=True):
            await connection.execute(statement("fanout_session"))
            yield
    except TimeoutError:
        if connection.is_closed():
            raise
        problem = f"it took longer than {timeout:g} s"
        raise _Failed(FanoutFailure(watch, problem, "Add an index for it, or make it smaller.")) from None
    except asyncpg.PostgresError as error:
        if _is_fatal(error) or connection.is_closed():
            raise
        raise _Failed(_failure(watch, error)) from error
    except asyncpg.InterfaceError as error:
        if connection.is_closed():
            raise
        raise _Failed(FanoutFailure(watch, "its answer cannot be read", _CAST_REMEDY)) from error


async def _statement(connection: "Connection", watch: Watch) -> str:
    """The statement for ``watch``, with casts to the columns' types of this moment; raises `_Failed`."""
    assert watch.query is not None
    table = watch.table
    found = await connection.fetch(statement("column_types"), table.schema, table.name)
    types: Mapping[str, str] = {record["name"]: record["type"] for record in found}
    if not types:
        raise _Failed(
            FanoutFailure(watch, f"there is no table {table}", "Correct the rule's table.", "42P01")
        )
    if missing := [column for column in watch.row_columns if column not in types]:
        either = "" if set(missing) & set(watch.query.columns) else "neither the query nor "
        problem = f"{either}{table} has {'a' if either else 'no'} column {', '.join(map(display, missing))}"
        remedy = "Add it to the select list." if either else "Correct the placeholder."
        raise _Failed(FanoutFailure(watch, problem, remedy, "42703"))
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


def _values(watch: Watch, records: Sequence[asyncpg.Record]) -> dict[str, list[str | None]]:
    """What the templates are filled with: the row's columns, overruled by the query's; raises `_Failed`."""
    values: dict[str, list[str | None]] = {}
    for column, place in _places(watch, list(records[0].keys())).items():
        answers = [record[place] for record in records]
        if not all(issubclass(kind, _PYTHON_TYPES) for kind in set(map(type, answers))):
            raise _Failed(
                FanoutFailure(watch, f"{display(column)} has a type that makes no key", _CAST_REMEDY)
            )
        values[column] = [None if answer is None else str(answer) for answer in answers]
    return values


def _places(watch: Watch, names: Sequence[str]) -> dict[str, int]:
    """Where each column of the templates stands in the answer; raises `_Failed` for one that does not."""
    own = len(watch.row_columns)
    places = {column: at for at, column in enumerate(watch.row_columns)}
    places.update({name: at for at, name in enumerate(names) if at >= own})
    wanted = columns_of(watch.keys)
    if missing := [column for column in wanted if column not in places]:
        problem = f"it returns no column {', '.join(map(display, missing))}, which the keys need"
        raise _Failed(FanoutFailure(watch, problem, "Add it to the select list."))
    return {column: places[column] for column in wanted}


def _check_columns(watch: Watch, attributes: Sequence[asyncpg.Attribute]) -> None:
    """Raise `_Failed` for a missing column, or one whose type makes no key."""
    for column, place in _places(watch, [attribute.name for attribute in attributes]).items():
        kind = attributes[place].type
        if kind.kind != "scalar" or (kind.schema == "pg_catalog" and kind.name not in _BUILTIN_TYPES):
            problem = f"{display(column)} is of type {kind.name}, which makes no key"
            raise _Failed(FanoutFailure(watch, problem, _CAST_REMEDY))


def _is_fatal(error: asyncpg.PostgresError) -> bool:
    """Whether the session ends with this error."""
    severity: object = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    return severity in ("FATAL", "PANIC") or isinstance(error, asyncpg.PostgresConnectionError)


def _failure(watch: Watch, error: asyncpg.PostgresError) -> FanoutFailure:
    code: str = error.sqlstate or "XX000"
    if code == "42501":
        remedy = "Let the worker's role read it: run unstale migration and push the file it writes."
        return FanoutFailure(watch, str(error), remedy, code)
    if code.startswith(
        "42"
    ):  # names and syntax; other classes quote row values, which do not belong in a log
        return FanoutFailure(watch, str(error), "Correct the query, or create what it names.", code)
    return FanoutFailure(
        watch, f"Postgres refused it ({type(error).__name__})", "Run it by hand to see why.", code
    )

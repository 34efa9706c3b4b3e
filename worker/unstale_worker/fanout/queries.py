"""Runs the rules' fan-out queries: pending arguments become keys.

A query that cannot be asked or answered costs its rule's patterns and is reported; the rest goes on. A
connection that breaks is no failure of a query: it is raised, and the batch is read again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from unstale_worker.fanout.failure import CAST_REMEDY, FanoutFailure, QueryFailed
from unstale_worker.fanout.statement import Connection, check_columns, failure_of, statement_for, values_of
from unstale_worker.rules import Plan, Rules, Watch
from unstale_worker.runtime.postgres_errors import ends_session
from unstale_worker.sql import statement

__all__ = ["FanoutFailure", "check_queries", "run_queries"]

ARGUMENTS_A_RUN: Final = 1_000
"""Changed rows a statement is run for at once: their arguments (512 bytes each) stay below a few MB."""

ROWS_A_FETCH: Final = 2_000
"""Rows the cursor brings at once; all that is held of an answer besides the keys made of it."""

MAX_ROWS: Final = 100_000
"""A query that returns more for one batch has its patterns invalidated: one scan is cheaper by then."""

TIMEOUT_SECONDS: Final = 10.0
"""Longest time one run may take. While it runs no other change is applied."""


async def run_queries(
    connection: Connection,
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
        connection: A session that is in no transaction.
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
        except QueryFailed as failed:
            plan.patterns.update(watch.patterns)
            failures.append(failed.failure)
        del plan.queries[watch]
    return failures


async def check_queries(
    connection: Connection, rules: Rules, *, timeout: float = TIMEOUT_SECONDS
) -> list[FanoutFailure]:
    """Prepare every query and run it for no row: finds wrong SQL, missing rights and hiding policies.

    For the worker's start and ``unstale doctor``; changes nothing. Raises as `run_queries` does.
    """
    failures: list[FanoutFailure] = []
    for watch in rules.watches:
        if watch.query is None:
            continue
        try:
            await _check(connection, watch, timeout)
        except QueryFailed as failed:
            failures.append(failed.failure)
    return failures


async def _run(connection: Connection, watch: Watch, plan: Plan, *, max_rows: int, timeout: float) -> None:
    """Run one rule's query for all its arguments; raises `QueryFailed`."""
    pending = list(plan.queries[watch])
    seen = 0

    async def ask() -> None:
        nonlocal seen
        sql = await statement_for(connection, watch)
        cursor = await connection.cursor(sql, list(range(len(rows))), *columns)
        while seen <= max_rows and (found := await cursor.fetch(ROWS_A_FETCH)):
            seen += len(found)
            watch.expand(values_of(watch, found), plan)

    for start in range(0, len(pending), ARGUMENTS_A_RUN):
        rows = pending[start : start + ARGUMENTS_A_RUN]
        columns: list[list[str | None]] = [list(column) for column in zip(*rows, strict=True)]
        await _seeing_all(connection, watch, timeout, ask)
        if seen > max_rows:
            plan.patterns.update(watch.patterns)
            return


async def _check(connection: Connection, watch: Watch, timeout: float) -> None:
    """Prepare one rule's query and run it for no row; raises `QueryFailed`."""

    async def ask() -> None:
        prepared = await connection.prepare(await statement_for(connection, watch))
        check_columns(watch, prepared.get_attributes())
        await prepared.fetch([], *([] for _ in watch.row_columns))

    await _seeing_all(connection, watch, timeout, ask)


async def _seeing_all(
    connection: Connection, watch: Watch, timeout: float, work: Callable[[], Awaitable[None]]
) -> None:
    """Do ``work`` so that no policy hides a row from it without an error; raises `QueryFailed`."""
    async with _transaction(connection, watch, timeout, row_security="on"):
        await work()
        hidden = await connection.fetch(statement("fanout_hidden"))
    if hidden:  # or behind a view that reads with its owner's rights: this run tells
        async with _transaction(connection, watch, timeout, row_security="off"):
            await work()


@asynccontextmanager
async def _transaction(
    connection: Connection, watch: Watch, timeout: float, *, row_security: str
) -> AsyncIterator[None]:
    """A read-only transaction with a deadline, in which the query's own errors become `QueryFailed`."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout), connection.transaction(readonly=True):
            await connection.fetchrow(statement("fanout_session"), row_security)
            yield
    except TimeoutError:
        if connection.is_closed():
            raise
        # Ours, or the connection's own limit (UNSTALE_DATABASE_TIMEOUT), which may be the shorter one.
        problem = f"it was given up after {time.monotonic() - began:.1f} s"
        raise QueryFailed(FanoutFailure(watch, problem, "Add an index for it, or make it smaller.")) from None
    except asyncpg.PostgresError as error:
        if ends_session(error) or connection.is_closed():
            raise
        raise QueryFailed(failure_of(watch, error)) from error
    except asyncpg.InterfaceError as error:
        if connection.is_closed():
            raise
        raise QueryFailed(FanoutFailure(watch, "its answer cannot be read", CAST_REMEDY)) from error

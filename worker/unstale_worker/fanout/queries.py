"""Run the rules' fan-out queries: pending arguments become keys.

If a query fails, its rule's key patterns are invalidated instead, the failure is reported, and the other
queries run. A lost connection is not a failure of a query: it is raised, and the batch is read again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from unstale_worker.fanout.failure import CAST_REMEDY, ColumnTypes, FanoutFailure, QueryFailed
from unstale_worker.fanout.statement import (
    Connection,
    causes_of,
    check_columns,
    failure_of,
    statement_for,
    values_of,
)
from unstale_worker.rules import Plan, Rules, Watch
from unstale_worker.runtime.postgres_errors import ends_session
from unstale_worker.sql import statement

__all__ = ["FanoutFailure", "check_queries", "run_queries"]

ARGUMENTS_A_RUN: Final = 1_000
"""Changed rows per run of a statement: their arguments (512 bytes each) stay below a few MB."""

ROWS_A_FETCH: Final = 2_000
"""Rows per fetch of the cursor. Besides the resulting keys, no more of an answer is held in memory."""

MAX_ROWS: Final = 100_000
"""If a query returns more rows for one batch, its patterns are invalidated instead: one scan is cheaper."""

TIMEOUT_SECONDS: Final = 10.0
"""Maximum duration of one run. No other change is applied while it runs."""


async def run_queries(
    connection: Connection,
    rules: Rules,
    plan: Plan,
    *,
    max_rows: int = MAX_ROWS,
    timeout: float = TIMEOUT_SECONDS,
) -> list[FanoutFailure]:
    """Run the pending queries of ``plan`` and add their keys and patterns to it.

    Each query runs once for up to `ARGUMENTS_A_RUN` changed rows, in a separate read-only transaction, so it
    sees at least the changes of the batch. One that Postgres refuses is run again as a fresh statement, and
    fails if that is refused too. Afterwards ``plan.queries`` is empty.

    Args:
        connection: A session without an open transaction.
        rules: The rules that ``plan`` was made with.
        plan: The plan to complete.
        max_rows: Maximum rows of a rule for this batch; beyond it, its patterns are invalidated instead.
        timeout: Maximum seconds for one run.

    Returns:
        The failures. The plan is complete in spite of them.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError: The connection
            is lost; ``plan`` is incomplete and must be made again.
    """
    failures: list[FanoutFailure] = []
    for watch in [watch for watch in rules.watches if watch in plan.queries]:
        try:
            try:
                await _run(connection, watch, plan, max_rows=max_rows, timeout=timeout)
            except QueryFailed as failed:
                if failed.failure.code is None:  # too slow, or a result of a wrong type
                    raise
                # A table that was altered refuses the statements that asyncpg and Postgres have kept, once.
                await connection.reload_schema_state()
                await _run(connection, watch, plan, max_rows=max_rows, timeout=timeout)
        except QueryFailed as failed:
            plan.patterns.update(watch.patterns)
            failures.append(failed.failure)
        del plan.queries[watch]
    return failures


async def check_queries(
    connection: Connection,
    rules: Rules,
    types: ColumnTypes | None = None,
    *,
    timeout: float = TIMEOUT_SECONDS,
) -> list[FanoutFailure]:
    """Prepare every query and run it without a row, to find wrong SQL, missing rights and hiding policies.

    Used at the worker's start and by ``unstale doctor``; changes nothing. Raises the errors of `run_queries`.
    """
    failures: list[FanoutFailure] = []
    for watch in rules.watches:
        if watch.query is None:
            continue
        try:
            found = await _check(connection, watch, timeout)
        except QueryFailed as failed:
            failures.append(failed.failure)
        else:
            if types is not None:
                types[watch] = found
    return failures


async def _run(connection: Connection, watch: Watch, plan: Plan, *, max_rows: int, timeout: float) -> None:
    """Run the query of one rule for all its arguments; raises `QueryFailed`."""
    asked = plan.queries[watch]
    pending = list(asked)
    seen = 0

    async def run() -> None:
        nonlocal seen
        sql = await statement_for(connection, watch)
        cursor = await connection.cursor(sql, list(range(len(rows))), *columns)
        while seen <= max_rows and (found := await cursor.fetch(ROWS_A_FETCH)):
            seen += len(found)
            watch.expand(values_of(watch, found), plan, causes_of(watch, found, asked))

    for start in range(0, len(pending), ARGUMENTS_A_RUN):
        rows = pending[start : start + ARGUMENTS_A_RUN]
        columns: list[list[str | None]] = [list(column) for column in zip(*rows, strict=True)]
        await _without_hidden_rows(connection, watch, timeout, run)
        if seen > max_rows:
            plan.patterns.update(watch.patterns)
            return


async def _check(connection: Connection, watch: Watch, timeout: float) -> dict[str, str]:
    """Prepare the query of one rule and run it without a row; raises `QueryFailed`."""
    types: dict[str, str] = {}

    async def run() -> None:
        prepared = await connection.prepare(await statement_for(connection, watch))
        types.update(check_columns(watch, prepared.get_attributes()))
        await prepared.fetch([], *([] for _ in watch.row_columns))

    await _without_hidden_rows(connection, watch, timeout, run)
    return types


async def _without_hidden_rows(
    connection: Connection, watch: Watch, timeout: float, work: Callable[[], Awaitable[None]]
) -> None:
    """Run ``work``; raise `QueryFailed` if a policy hides rows from it."""
    async with _transaction(connection, watch, timeout, row_security="on"):
        await work()
        hidden = await connection.fetch(statement("fanout_hidden"))
    if hidden:  # unless a view reads with its owner's rights; the second run raises if rows are hidden
        async with _transaction(connection, watch, timeout, row_security="off"):
            await work()


@asynccontextmanager
async def _transaction(
    connection: Connection, watch: Watch, timeout: float, *, row_security: str
) -> AsyncIterator[None]:
    """Open a read-only transaction with a deadline; errors of the query become `QueryFailed`."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout), connection.transaction(readonly=True):
            await connection.fetchrow(statement("fanout_session"), row_security)
            yield
    except TimeoutError:
        if connection.is_closed():
            raise
        # This deadline, or the connection's own (UNSTALE_DATABASE_TIMEOUT), which may be shorter.
        problem = f"it timed out after {time.monotonic() - began:.1f} s"
        remedy = "Add an index for it, or let it return less."
        raise QueryFailed(FanoutFailure(watch, problem, remedy)) from None
    except asyncpg.PostgresError as error:
        if ends_session(error) or connection.is_closed():
            raise
        raise QueryFailed(failure_of(watch, error)) from error
    except asyncpg.InterfaceError as error:
        if connection.is_closed():
            raise
        raise QueryFailed(FanoutFailure(watch, "its result cannot be read", CAST_REMEDY)) from error

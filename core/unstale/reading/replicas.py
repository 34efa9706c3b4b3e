"""Gives a loader a connection to a replica if that is fresh enough, or else to the primary."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Any, Final

import asyncpg

logger = logging.getLogger("unstale")

FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""Errors of a replica that is down, busy or not ours; the primary is read instead."""


@asynccontextmanager
async def connection_for(
    need_lsn: str | None,
    database: str | None,
    *,
    primary: "asyncpg.Pool[Any]",
    replica: "asyncpg.Pool[Any]",
    timeout: float,
) -> AsyncIterator[Any]:
    """Return a connection for a load; `Load.connection` is its public name.

    Without ``need_lsn`` or ``database`` it is a connection to the primary.
    """
    if need_lsn is not None and database is not None:
        async with AsyncExitStack() as stack:
            connection = await _ready(stack, need_lsn, database, replica, timeout)
            if connection is not None:
                yield connection
                return
    async with primary.acquire() as connection:
        yield connection


async def _ready(
    stack: AsyncExitStack, lsn: str, database: str, replica: "asyncpg.Pool[Any]", timeout: float
) -> Any | None:
    """Return a connection to the replica if it has replayed ``lsn``; ``stack`` returns it to the pool."""
    connection = None
    try:
        async with asyncio.timeout(timeout):
            connection = await stack.enter_async_context(replica.acquire())
            # Check on the connection that the loader will use: another one may lead to another server.
            ready = await connection.fetchval(replica_ready(), lsn, database)
    except FAILURES as error:
        logger.debug("the replica is not read: %s", type(error).__name__)
        if connection is not None:
            connection.terminate()  # a server that does not answer would also delay its return to the pool
        return None
    return connection if ready else None


@cache
def replica_ready() -> str:
    """Return the SQL statement that checks a replica."""
    return files("unstale.reading").joinpath("replica_ready.sql").read_text("utf-8")

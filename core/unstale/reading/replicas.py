"""Gives a loader a connection that shows it enough: a replica's where that will do, or the primary's."""

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
"""What a replica that is away, busy or not ours says; the primary is read instead."""


@asynccontextmanager
async def connection_for(
    need_lsn: str | None,
    database: str | None,
    *,
    primary: "asyncpg.Pool[Any]",
    replica: "asyncpg.Pool[Any]",
    timeout: float,
) -> AsyncIterator[Any]:
    """See `Load.connection`, which is its public name. Without LSN or database: the primary's."""
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
    """A connection to the replica, given back when ``stack`` ends, if it had replayed ``lsn`` by now."""
    connection = None
    try:
        async with asyncio.timeout(timeout):
            connection = await stack.enter_async_context(replica.acquire())
            # On the connection that the loader will use: another one may lead to another server.
            ready = await connection.fetchval(replica_ready(), lsn, database)
    except FAILURES as error:
        logger.debug("the replica is not read: %s", type(error).__name__)
        if connection is not None:
            connection.terminate()  # a server that does not answer would also hold up its return to the pool
        return None
    return connection if ready else None


@cache
def replica_ready() -> str:
    """The statement that asks a replica."""
    return files("unstale.reading").joinpath("replica_ready.sql").read_text("utf-8")

"""Finds out whether a transaction pooler lies between us and Postgres."""

import asyncio
from typing import Final

from unstale_worker.runtime.postgres_errors import translate_errors
from unstale_worker.sources.postgres_connections import PostgresConnections
from unstale_worker.sql import statement

MOST_WAIT: Final = 2.0
"""Seconds a query may take while another connection's transaction is open; else it waits for it."""


async def is_transaction_pooler(connections: PostgresConnections) -> bool:
    """Whether sessions are shared; asked before any LISTEN or lock, which such a pooler swallows or keeps.

    While one connection holds a transaction open, another asks for its backend's pid twice: a pid that
    changes, or that both share, means that server sessions are handed around; and so does no answer at all
    while the transaction is open: a pool of one. Raises `DatabaseUnavailable`.
    """
    probe = PostgresConnections(connections.dsn, connections.timeout, pooled=True)
    first = await probe.open()
    try:
        second = await probe.open()
        try:
            async with translate_errors(), first.transaction():
                held = await first.fetchval(statement("backend_pid"))
                try:
                    async with asyncio.timeout(MOST_WAIT):
                        pids = {await second.fetchval(statement("backend_pid")) for _ in range(2)}
                        # A second transaction on the other side makes a small pool hand out another session.
                        async with second.transaction():
                            pids.add(await second.fetchval(statement("backend_pid")))
                except TimeoutError:
                    second.terminate()
                    return True
                own = {first.get_server_pid(), second.get_server_pid()}
            return len(pids) > 1 or held in pids or not {held, *pids} <= own
        finally:
            if not second.is_closed():
                await second.close(timeout=2.0)
    finally:
        await first.close(timeout=2.0)

"""Detect a transaction pooler between the worker and Postgres."""

import asyncio
from typing import Final

from unstale_worker.runtime.postgres_errors import translate_errors
from unstale_worker.sources.postgres_connections import PostgresConnections
from unstale_worker.sql import statement

MOST_WAIT: Final = 2.0
"""Seconds a query may take while another connection's transaction is open; a longer query waits for it."""


async def is_transaction_pooler(connections: PostgresConnections) -> bool:
    """Return True if server sessions are shared; raises `DatabaseUnavailable`.

    Call this before any LISTEN, because a transaction pooler swallows it. While one connection holds a
    transaction open, a second connection asks for its backend pid twice. Sessions are shared if that pid
    changes or equals the first connection's pid. They are also shared if no answer arrives while the
    transaction is open: then the pool has a single session.
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
                        # A second transaction makes a small pool assign a different session.
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

"""A few Postgres sessions for loaders, each with its statements; a broken one is replaced."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

from unstale.errors import DatabaseUnavailable
from unstale_worker.refresh.sql.sql_loading import Statements
from unstale_worker.runtime.postgres_errors import CONNECTION_ERRORS
from unstale_worker.sources.postgres_connections import PostgresConnections, end_session

Session: TypeAlias = tuple["asyncpg.Connection[asyncpg.Record]", Statements]


class Sessions:
    """At most ``most`` sessions on the primary, opened when needed.

    Example:
        >>> async with sessions.session() as (connection, statements):
        ...     loaded = await load(connection, statements, spec, keys)
    """

    def __init__(self, connections: PostgresConnections, *, name: str, most: int) -> None:
        self._connections, self._name = connections, name
        self._idle: list[Session] = []
        self._free = asyncio.Semaphore(most)
        self._closed = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Lend a session; raises `DatabaseUnavailable`, also if it breaks inside."""
        async with self._free:
            session = self._take() or await self._open()
            try:
                yield session
            except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
                session[0].terminate()
                raise DatabaseUnavailable(
                    f"a loader lost its Postgres session ({type(error).__name__})"
                ) from error
            except BaseException:  # cancelled: the state of the session is unknown
                session[0].terminate()
                raise
            if self._closed:
                session[0].terminate()
            else:
                self._idle.append(session)

    async def _open(self) -> Session:
        connection = await self._connections.open(name=self._name)
        statements = Statements(pooled=self._connections.pooled)
        try:
            await statements.begin(connection)
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            connection.terminate()
            raise DatabaseUnavailable(f"a loader got no session ({type(error).__name__})") from error
        except BaseException:  # cancelled
            connection.terminate()
            raise
        return connection, statements

    def _take(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if not session[0].is_closed():
                return session
        return None

    async def close(self) -> None:
        """Close idle sessions now, and the others when they are returned."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            await end_session(connection)

    def __repr__(self) -> str:
        return f"<Sessions {self._name} idle={len(self._idle)}>"

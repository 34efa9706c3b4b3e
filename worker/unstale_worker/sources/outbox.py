"""Read the outbox over asyncpg: one statement per page."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg

from unstale.errors import DatabaseUnavailable, UnstaleError
from unstale.protocol.names import APPLICATION_NAME
from unstale_worker.fanout import queries
from unstale_worker.fanout.failure import ColumnTypes, FanoutFailure
from unstale_worker.fanout.statement import Connection
from unstale_worker.rules import Plan, Rules
from unstale_worker.runtime.postgres_errors import CONNECTION_ERRORS, translate_errors
from unstale_worker.sources import Cursor, Earlier, OutboxEntry, Page, WatchState, WatchVersion
from unstale_worker.sources.notify import NotifyWakeUps
from unstale_worker.sources.postgres_connections import (
    PostgresConnections,
    end_session,
)
from unstale_worker.sql import statement

logger = logging.getLogger("unstale.source")  # not structlog: this also runs inside agent processes

MAX_ELEMENTS: Final = 50_000
"""Maximum key parts in one page: about 8 MB as Python strings, which bounds the worker's memory."""


class OutboxSource:
    """The outbox of one database, read over one connection that is reopened after an error.

    Example:
        >>> source = OutboxSource(PostgresConnections("postgresql://..."), read_entries=5_000)
        >>> page = await source.read(None)
    """

    kind = "outbox"
    least_pause = 0.0

    def __init__(
        self, connections: PostgresConnections, *, read_entries: int = 5_000, session: str = "standby"
    ) -> None:
        self._connections = connections
        self._read_entries = read_entries
        self._connection: asyncpg.Connection | None = None
        self._versions: dict[tuple[int, int], WatchVersion] = {}
        self._database = ""
        self._name = self._first_name = session
        self._lock = asyncio.Lock()
        self.reads = 0

    def __repr__(self) -> str:
        state = "open" if self._connection and not self._connection.is_closed() else "closed"
        return f"<OutboxSource {state} reads={self.reads}>"

    async def named(self, name: str) -> None:
        """Name the session (``<consumer>:<fence>`` or ``standby``), now and after each reconnect."""
        self._name = name
        if self._connection is not None and not self._connections.pooled:
            async with self._use() as connection:
                await connection.execute(statement("application_name"), f"{APPLICATION_NAME}:{name}")

    async def read(self, after: str | None, cursor: Cursor | None = None) -> Page:
        """See `Source.read`."""
        async with self._use() as connection:
            page = await read_page(connection, after, cursor, most=self._read_entries)
        self.reads += 1
        if page.database != self._database:  # a restored database may give known numbers to other watches
            self._database, self._versions = page.database, {}
        return page

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        """See `Source.watch_version`; cached, since a version never changes within one history."""
        known = self._versions.get((watch, version))
        if known is None:
            await self.watch_versions()
            known = self._versions.get((watch, version))
        return known

    async def watch_versions(self) -> dict[tuple[int, int], WatchVersion]:
        """See `Source.watch_versions`."""
        async with self._use() as connection:
            rows = await connection.fetch(statement("watch_versions"))
        self._versions = {
            (watch, version): WatchVersion(
                schema,
                table,
                tuple(keys),
                bool(current),
                None if columns is None else tuple(columns),
                tuple(types),
            )
            for watch, version, schema, table, keys, current, columns, types in rows
        }
        return self._versions

    async def watch_states(self, described: Sequence[int] = ()) -> list[WatchState]:
        """See `Source.watch_states`."""
        async with self._use() as connection:
            rows = await connection.fetch(statement("watch_states"), list(described))
        return [WatchState.of(tuple(row)) for row in rows]

    async def purge(self, *, rows: int, retention: float | None, outbox_max_rows: int | None) -> int:
        """See `Source.purge`."""
        async with self._use() as connection:
            return int(await connection.fetchval(statement("purge"), rows, retention, outbox_max_rows))

    async def position_before(self, seconds: float) -> Earlier:
        """See `Source.position_before`."""
        async with self._use() as connection:
            (row,) = await connection.fetch(statement("position_before"), seconds)
        return Earlier(*row)

    async def run_queries(self, rules: Rules, plan: Plan) -> list[FanoutFailure]:
        """See `Source.run_queries`."""
        async with self._query_connection() as connection:
            return await queries.run_queries(connection, rules, plan)

    async def check_queries(self, rules: Rules, types: ColumnTypes | None = None) -> list[FanoutFailure]:
        """See `Source.check_queries`."""
        async with self._query_connection() as connection:
            return await queries.check_queries(connection, rules, types)

    async def begin_term(self, consumer: str, fence: int) -> int:
        """Name the session after the term, and end the sessions of leaders with a lower fence."""
        await self.named(f"{consumer}:{fence}")
        async with self._use() as connection:
            return int(await connection.fetchval(statement("end_old_leaders"), consumer, fence))

    async def end_term(self) -> None:
        """Name the session ``standby`` again."""
        with suppress(UnstaleError):
            await self.named("standby")

    def wakeups(self) -> NotifyWakeUps:
        """Return wake-ups by NOTIFY on a separate session."""
        return NotifyWakeUps(self._connections)

    def sibling(self) -> "OutboxSource":
        """Return a source with a separate session."""
        return OutboxSource(self._connections, read_entries=self._read_entries, session=self._first_name)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend the connection for the rules' queries; errors are not translated."""
        async with self._lock:
            yield await self._open()

    async def close(self) -> None:
        """Close the connection; safe at any time, also twice."""
        connection, self._connection = self._connection, None
        await end_session(connection)

    @asynccontextmanager
    async def _query_connection(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with self.borrow() as connection:
                yield connection
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            await self.close()
            raise DatabaseUnavailable(
                f"the connection was lost during a fan-out query ({type(error).__name__}); the batch is read "
                "again"
            ) from error

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._lock:
            connection = await self._open()
            try:
                async with translate_errors():
                    if self._connections.pooled:
                        async with connection.transaction():
                            await connection.execute(statement("pooled_settings"))
                            yield connection
                    else:
                        yield connection
            except (DatabaseUnavailable, asyncio.CancelledError):
                # After a cancelled statement the state of the connection is unknown; a new one takes ms.
                connection.terminate()
                self._connection = None
                raise

    async def _open(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            self._connection = await self._connections.open(name=self._name)
            logger.debug("connected to the database as %s", self._name)
        return self._connection


async def read_page(
    connection: Connection, after: str | None, cursor: Cursor | None = None, *, most: int
) -> Page:
    """Read at most ``most`` entries after the position ``after``, in the snapshot of ``connection``."""
    began = time.monotonic()
    row = await connection.fetchrow(
        statement("read"),
        after,
        cursor.snapshot if cursor else None,
        str(cursor.xid) if cursor else None,
        cursor.id if cursor else None,
        most,
        MAX_ELEMENTS,
    )
    assert row is not None
    entries: Sequence[OutboxEntry] = [OutboxEntry._make(entry) for entry in row[10] or ()]
    snapshot: str = row[1]
    return Page(
        database=row[0],
        snapshot=snapshot,
        position=row[2],
        more=row[3],
        cursor=Cursor(snapshot, row[4], row[5]) if row[4] is not None else None,
        lsn=row[6],
        flushed=row[7],
        covered=row[8],
        current_xmax=row[9],
        entries=entries,
        began=began,
        xids=row[11] or (),
        operations=row[12] or "",
    )

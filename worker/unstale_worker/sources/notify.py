"""Wake-ups by NOTIFY, which captures send only while the worker sleeps.

One advisory lock means "the worker sleeps". Captures notify only while it is held exclusively, so a busy or
absent worker costs the user's transactions nothing. The lock is only ever *tried*. A session that waited for
it would block every commit behind one long writer, and would receive no NOTIFY meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import structlog

from unstale.errors import DatabaseUnavailable
from unstale.protocol.names import SLEEP_LOCK, WAKEUP_CHANNEL
from unstale_worker.runtime.backoff import Backoff
from unstale_worker.runtime.postgres_errors import translate_errors
from unstale_worker.sources.postgres_connections import PostgresConnections, end_session
from unstale_worker.sources.wakeups import WakeUps
from unstale_worker.sql import statement

log = structlog.get_logger("unstale.wakeups")

UNANNOUNCED_READS: Final = 3
"""Consecutive timer reads that found changes without a NOTIFY, after which the session is replaced."""


class NotifyWakeUps(WakeUps):
    """Wake-ups from NOTIFY on a separate session. Behind a transaction pooler only the timer remains.

    Example:
        >>> async with NotifyWakeUps(connections) as wakeups:
        ...     if await wakeups.try_sleep():
        ...         await wakeups.wait(0.5)
    """

    def __init__(self, connections: PostgresConnections) -> None:
        super().__init__()
        self._connections = connections
        self._connection: asyncpg.Connection | None = None
        self._backoff = Backoff(first=0.1, most=5.0)
        self._retry_at = 0.0
        self._name = "standby"
        self._unannounced = 0

    def __repr__(self) -> str:
        return f"<NotifyWakeUps {'asleep' if self.asleep else 'awake'} received={self.received}>"

    @property
    def listening(self) -> bool:
        """True while a session listens."""
        return self._connection is not None and not self._connection.is_closed()

    @asynccontextmanager
    async def term(self, name: str) -> AsyncIterator[None]:
        """Put ``name`` into the ``application_name`` of sessions opened in the block."""
        self._name = name
        try:
            yield
        finally:
            await self.end_sleep()
            self._name = "standby"

    async def try_sleep(self) -> bool:
        """Try to make every commit notify; if True, read once more and then `wait`.

        If False, poll. This happens while a transaction is open whose capture saw the worker awake, behind a
        transaction pooler, and while no session can be opened.
        """
        if self._connections.pooled:
            return False
        if self.asleep:
            return True
        try:
            connection = await self._open()
            if connection is None:
                return False
            self._event.clear()
            async with translate_errors():
                self.asleep = bool(await connection.fetchval(statement("sleep_try"), *SLEEP_LOCK))
        except DatabaseUnavailable as error:
            self._broken(error)
        except asyncio.CancelledError:
            # The lock may or may not be granted; closing the session releases it in either case.
            self._broken(None)
            raise
        return self.asleep

    async def end_sleep(self) -> None:
        """Stop commits from notifying."""
        if not self.asleep:
            return
        self.asleep = False
        assert self._connection is not None
        try:
            async with translate_errors():
                await self._connection.fetchval(statement("sleep_end"), *SLEEP_LOCK)
        except DatabaseUnavailable as error:
            self._broken(error)
        except asyncio.CancelledError:
            self._broken(None)
            raise

    def report_read(self, found: bool, *, asleep: bool) -> None:
        """See `WakeUps.report_read`; replaces a session that receives no NOTIFY while asleep."""
        if not asleep:
            return
        self._unannounced = self._unannounced + 1 if found else 0
        if self._unannounced >= UNANNOUNCED_READS:
            log.warning("changes arrive without NOTIFY; listening on a new session")
            self._broken(None)

    async def close(self) -> None:
        """End the session, which releases the lock."""
        self.asleep = False
        connection, self._connection = self._connection, None
        await end_session(connection)

    async def _open(self) -> asyncpg.Connection | None:
        if self.listening:
            return self._connection
        self._connection = None
        if asyncio.get_running_loop().time() < self._retry_at:
            return None
        connection = await self._connections.open(name=self._name)
        try:
            async with translate_errors():
                await connection.add_listener(WAKEUP_CHANNEL, self._notified)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(self._terminated)
        self._connection = connection
        self._backoff.succeeded()
        self._unannounced = 0
        return connection

    def _notified(self, *_: object) -> None:
        self.received += 1
        self._unannounced = 0
        self._event.set()

    def _terminated(self, connection: object) -> None:
        if connection is self._connection:
            self.asleep = False
            self._event.set()

    def _broken(self, error: Exception | None) -> None:
        self.asleep = False
        self._unannounced = 0
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
        if error is not None:
            self._retry_at = asyncio.get_running_loop().time() + self._backoff.failed()
            log.warning("the listening session was lost; polling until it is back", error=str(error))

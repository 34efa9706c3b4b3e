"""Wake-ups by NOTIFY, which captures send only while the worker sleeps.

The worker tells the database that it wants NOTIFY for the next 30 seconds, and repeats it while it sleeps. So
a busy worker costs the user's transactions nothing, and an absent one nothing after these seconds. Only roles
with a right on ``unstale.want_notify()`` can set or end this.

A capture that read the previous answer may commit without a NOTIFY. The database lists the transactions for
which that is possible, and the worker polls until all of them have ended. No
transaction waits for the worker.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import structlog

from unstale.errors import DatabaseUnavailable, MigrationMissing
from unstale.protocol.names import WAKEUP_CHANNEL
from unstale_worker.runtime.backoff import Backoff
from unstale_worker.runtime.postgres_errors import translate_errors
from unstale_worker.sources.postgres_connections import PostgresConnections, end_session
from unstale_worker.sources.wakeups import WakeUps
from unstale_worker.sql import statement

log = structlog.get_logger("unstale.wakeups")

NOTIFY_SECONDS: Final = 30.0
"""Seconds for which one call of ``unstale.want_notify()`` lets captures notify."""
SLEEP_SECONDS: Final = 20.0
"""Seconds after which a sleeping worker calls it again; the rest is for a slow answer."""
MIGRATION_SECONDS: Final = 60.0
"""Seconds between two attempts on a database that lacks the function."""
QUEUE_SECONDS: Final = 0.1
"""Seconds between two looks at commits that wait for the NOTIFY of another one."""
QUEUE_NOTIFIES: Final = 3
"""NOTIFYs since the last look below which nothing is worth a look: 30 a second."""
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
        self._wanted_until = 0.0
        self._asleep_until = 0.0
        self._silent: set[str] = set()
        self._queue_looked_at = 0.0
        self._queue_received = 0
        self._queued = False
        self._look_again_at = 0.0
        self._silent_backoff = Backoff(first=0.02, most=2.0)

    def __repr__(self) -> str:
        return f"<NotifyWakeUps {'asleep' if self.asleep else 'awake'} received={self.received}>"

    @property
    def asleep(self) -> bool:
        """See `WakeUps.asleep`; ends by itself after `SLEEP_SECONDS`, so that `try_sleep` is called again."""
        return asyncio.get_running_loop().time() < self._asleep_until

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
        """Make every commit notify; if True, read once more and then `wait`.

        If False, poll. This happens behind a transaction pooler, while no session can be opened, and while a
        transaction is open whose capture may have read that no NOTIFY is wanted. Later commits notify.
        """
        if self._connections.pooled:
            return False
        began = asyncio.get_running_loop().time()
        if began < self._asleep_until:
            return True
        if began < self._look_again_at:
            return False
        try:
            connection = await self._open()
            if connection is None:
                return False
            self._event.clear()
            async with translate_errors():
                writers = set(await connection.fetchval(statement("want_notify")))
        except DatabaseUnavailable as error:
            self._broken(error)
            return False
        except MigrationMissing as error:
            log.warning("commits cannot be made to notify; polling", error=str(error))
            self._look_again_at = began + MIGRATION_SECONDS
            return False
        except asyncio.CancelledError:
            self._broken(None)
            raise
        unbroken = asyncio.get_running_loop().time() < self._wanted_until
        self._silent = self._silent & writers if unbroken else writers
        self._wanted_until = began + NOTIFY_SECONDS
        if self._silent:
            self._look_again_at = began + self._silent_backoff.failed()
            return False
        self._silent_backoff.succeeded()
        self._asleep_until = began + SLEEP_SECONDS
        return True

    async def end_sleep(self) -> None:
        """Stop commits from notifying."""
        wanted, connection = self._wanted_until, self._connection
        self._forget()
        if asyncio.get_running_loop().time() >= wanted or connection is None:
            return
        try:
            async with translate_errors():
                await connection.fetchval(statement("end_notify"))
        except DatabaseUnavailable as error:
            self._broken(error)
        except asyncio.CancelledError:
            self._broken(None)
            raise

    async def delays_commits(self) -> bool:
        """Return True if commits queue for NOTIFY, which lets only one commit at a time wait for the disk.

        A queue of two, or of one at two looks, is one that lasts. The rate of changes cannot show it, because
        the queue keeps that rate low: at one commit for each flush of the disk.
        """
        now = asyncio.get_running_loop().time()
        if not self.asleep or now < self._queue_looked_at + QUEUE_SECONDS:
            return False
        notified = self.received - self._queue_received
        self._queue_looked_at, self._queue_received = now, self.received
        connection = self._connection
        if notified < QUEUE_NOTIFIES or connection is None:
            self._queued = False
            return False
        try:
            async with translate_errors():
                waiting = int(await connection.fetchval(statement("notify_queue")))
        except DatabaseUnavailable as error:
            self._broken(error)
            return False
        except asyncio.CancelledError:
            self._broken(None)
            raise
        before, self._queued = self._queued, waiting > 0
        return waiting > 1 or (waiting == 1 and before)

    def report_read(self, found: bool, *, asleep: bool) -> None:
        """See `WakeUps.report_read`; replaces a session that receives no NOTIFY while asleep."""
        if not asleep:
            return
        self._unannounced = self._unannounced + 1 if found else 0
        if self._unannounced >= UNANNOUNCED_READS:
            log.warning("changes arrive without NOTIFY; listening on a new session")
            self._broken(None)

    async def close(self) -> None:
        """End the session; captures stop notifying 30 seconds later at most."""
        self._forget()
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
            self._forget()
            self._event.set()

    def _forget(self) -> None:
        """Count every open writer as silent at the next `try_sleep`."""
        self._wanted_until = self._asleep_until = self._look_again_at = 0.0

    def _broken(self, error: Exception | None) -> None:
        self._forget()
        self._unannounced = 0
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
        if error is not None:
            self._retry_at = asyncio.get_running_loop().time() + self._backoff.failed()
            log.warning("the listening session was lost; polling until it is back", error=str(error))

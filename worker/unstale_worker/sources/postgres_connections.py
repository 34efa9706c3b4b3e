"""Open and close connections to Postgres."""

import configparser
import socket
from dataclasses import dataclass, field
from typing import Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from unstale.companion.pools.postgres_refusal import refusal
from unstale.errors import DatabaseUnavailable
from unstale.protocol.names import APPLICATION_NAME
from unstale.runtime.postgres_url import PostgresUrl
from unstale.runtime.tls import postgres_tls
from unstale_worker.runtime.postgres_errors import CONNECTION_ERRORS
from unstale_worker.sql import statement

SESSION_SETTINGS: Final = {
    "row_security": "off",  # a policy that hides rows raises an error instead of leaving a silent gap
    "timezone": "UTC",
    "search_path": "",
    "jit": "off",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}


@dataclass(frozen=True, slots=True)
class PostgresConnections:
    """Opens connections to one database.

    Attributes:
        dsn: Connection URL; never logged.
        timeout: Seconds for a connection attempt and for a statement.
        pooled: True behind a transaction pooler: no prepared statements, no session state.
    """

    dsn: str = field(repr=False)
    timeout: float = 10.0
    pooled: bool = False

    async def open(self, *, name: str = "standby") -> asyncpg.Connection:
        """Connect to the primary, also if the URL names several hosts.

        Raises `DatabaseRefused` for what the same URL will meet again, else `DatabaseUnavailable`.
        """
        url = PostgresUrl.parse(self.dsn)
        try:
            connection: asyncpg.Connection = await asyncpg.connect(
                url.dsn,
                timeout=self.timeout,
                command_timeout=self.timeout,
                statement_cache_size=0 if self.pooled else 100,
                # A standby lags: a loader could store an old value after its invalidation, permanently.
                target_session_attrs=SessionAttribute.primary,
                ssl=postgres_tls(url.dsn),
            )
        except (*CONNECTION_ERRORS, asyncpg.PostgresError, ValueError, configparser.Error) as error:
            refused = refusal(error, url)
            if refused is not None:
                raise refused from None  # the library's text may quote a part of the URL
            raise _unavailable(error) from error
        if not self.pooled:
            await self._set_up(connection, name)
        return connection

    async def _set_up(self, connection: asyncpg.Connection, name: str) -> None:
        settings = SESSION_SETTINGS | {"application_name": f"{APPLICATION_NAME}:{name}"}
        try:
            # Not as start-up parameters: poolers reject unknown ones.
            await connection.execute(statement("session"), list(settings), list(settings.values()))
        except BaseException as error:  # including cancellation: no other code can close this connection yet
            connection.terminate()
            if isinstance(error, (*CONNECTION_ERRORS, asyncpg.PostgresError)):
                raise _unavailable(error) from error
            raise


def _unavailable(error: Exception) -> DatabaseUnavailable:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return DatabaseUnavailable(
            "DATABASE_URL leads to a standby, but changes and values must be read from the primary; name "
            "the primary in DATABASE_URL, or all hosts: postgresql://...@host1:5432,host2:5432/db"
        )
    if isinstance(error, socket.gaierror):
        return DatabaseUnavailable(
            "cannot connect to Postgres (gaierror): no address was found for the host in DATABASE_URL; "
            "check its spelling and the name server"
        )
    return DatabaseUnavailable(
        f"cannot connect to Postgres ({type(error).__name__}); check DATABASE_URL and the server"
    )


async def end_session(connection: asyncpg.Connection | None) -> None:
    """Close a connection within one second, else drop it; errors of a lost connection are suppressed."""
    if connection is None or connection.is_closed():
        return
    try:
        await connection.close(timeout=1.0)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError):
        connection.terminate()

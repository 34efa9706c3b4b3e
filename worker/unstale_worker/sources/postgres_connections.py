"""Open and close connections to Postgres."""

import ssl
from dataclasses import dataclass
from typing import Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from unstale.errors import DatabaseUnavailable
from unstale.protocol.names import APPLICATION_NAME
from unstale.runtime.tls import UNENCRYPTED, postgres_tls, untrusted
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

    dsn: str
    timeout: float = 10.0
    pooled: bool = False

    async def open(self, *, name: str = "standby") -> asyncpg.Connection:
        """Connect to the primary, also if the URL names several hosts; raises `DatabaseUnavailable`."""
        try:
            connection: asyncpg.Connection = await asyncpg.connect(
                self.dsn,
                timeout=self.timeout,
                command_timeout=self.timeout,
                statement_cache_size=0 if self.pooled else 100,
                # A standby lags: a loader could store an old value after its invalidation, permanently.
                target_session_attrs=SessionAttribute.primary,
                ssl=postgres_tls(self.dsn),
            )
            if not self.pooled:
                settings = SESSION_SETTINGS | {"application_name": f"{APPLICATION_NAME}:{name}"}
                try:
                    # Not as start-up parameters: poolers reject unknown ones.
                    await connection.execute(statement("session"), list(settings), list(settings.values()))
                except BaseException:  # including cancellation: no other code can close this connection yet
                    connection.terminate()
                    raise
            return connection
        except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            raise DatabaseUnavailable(
                "Postgres refused the user or password of DATABASE_URL; check both and the role's LOGIN right"
            ) from error
        except asyncpg.TargetServerAttributeNotMatched as error:
            raise DatabaseUnavailable(
                "DATABASE_URL leads to a standby, but changes and values must be read from the primary; name "
                "the primary in DATABASE_URL, or all hosts: postgresql://...@host1:5432,host2:5432/db"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise DatabaseUnavailable(untrusted(error)) from error
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            if "rejected SSL upgrade" in str(error):
                raise DatabaseUnavailable(UNENCRYPTED) from error
            raise DatabaseUnavailable(
                f"cannot connect to Postgres ({type(error).__name__}); check DATABASE_URL and the server"
            ) from error


async def end_session(connection: asyncpg.Connection | None) -> None:
    """Close a connection within one second, else drop it; errors of a lost connection are suppressed."""
    if connection is None or connection.is_closed():
        return
    try:
        await connection.close(timeout=1.0)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError):
        connection.terminate()

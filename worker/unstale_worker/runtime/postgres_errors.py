"""Classification of asyncpg's errors, and their translation into unstale's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from unstale.errors import DatabaseUnavailable, MigrationMissing

CONNECTION_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.CannotConnectNowError,
)
"""Errors that a new connection may resolve."""


def ends_session(error: asyncpg.PostgresError) -> bool:
    """Return True if Postgres ended the session with this error."""
    severity: object = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    return severity in ("FATAL", "PANIC") or isinstance(error, asyncpg.PostgresConnectionError)


@asynccontextmanager
async def translate_errors() -> AsyncIterator[None]:
    """Raise `DatabaseUnavailable` or `MigrationMissing` for the asyncpg errors of the block."""
    try:
        yield
    except (
        asyncpg.UndefinedFunctionError,
        asyncpg.InvalidSchemaNameError,
        asyncpg.UndefinedTableError,
        asyncpg.UndefinedColumnError,
    ) as error:
        raise MigrationMissing(
            "the database lacks the schema unstale of this version; run `unstale migration` and push the new "
            "files"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationMissing(
            "the worker's role may not read the outbox; grant it unstale_worker, or connect as its owner"
        ) from error
    except CONNECTION_ERRORS as error:
        raise DatabaseUnavailable(
            f"the connection to Postgres was lost ({type(error).__name__}); the worker reconnects"
        ) from error
    except asyncpg.InternalServerError as error:
        # "cache lookup failed for type ...": the session knows objects that a restore has just replaced.
        raise DatabaseUnavailable(f"Postgres failed ({error}); the worker reconnects") from error

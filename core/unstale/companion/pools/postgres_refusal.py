"""Errors of a new Postgres connection that the same ``DATABASE_URL`` would meet again, in words."""

import configparser
import ssl

import asyncpg

from unstale.errors import DatabaseRefused
from unstale.runtime.postgres_url import PostgresUrl
from unstale.runtime.tls import UNENCRYPTED, untrusted


def refusal(error: BaseException, url: PostgresUrl) -> DatabaseRefused | None:
    """Return the error for what ``DATABASE_URL`` says wrongly, or None for a server that is away.

    The text names the part of the URL and quotes no secret: of the server's message it shows nothing.
    """
    text = _problem(error, url)
    return None if text is None else DatabaseRefused(text)


def _problem(error: BaseException, url: PostgresUrl) -> str | None:
    message = str(error)
    if isinstance(error, asyncpg.InvalidPasswordError):
        without = "" if url.has_password else " DATABASE_URL contains no password."
        return (
            "Postgres refused the user or password of DATABASE_URL; check both and the role's LOGIN right."
            f"{without}"
        )
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        if "no encryption" in message or "SSL off" in message:
            return (
                "Postgres accepts only encrypted connections from here; replace sslmode in DATABASE_URL with "
                "sslmode=require or sslmode=verify-full, or allow the connection in pg_hba.conf"
            )
        return (
            "Postgres refused the user or password of DATABASE_URL; check both, the role's LOGIN right and "
            "pg_hba.conf"
        )
    if isinstance(error, asyncpg.InvalidCatalogNameError) or "no such database" in message:
        named = "that DATABASE_URL names" if url.database is None else f"{url.database!r} of DATABASE_URL"
        return f"the database {named} does not exist on this server; correct what follows the last /"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return (
            "Postgres refuses what DATABASE_URL asks for: its role may not connect to the database, or not "
            f"set {url.option_in(message)}; grant it that, or correct the URL"
        )
    if "startup parameter" in message or (
        isinstance(error, asyncpg.PostgresError) and str(error.sqlstate).startswith(("42", "22"))
    ):
        return (
            f"DATABASE_URL: Postgres refuses {url.option_in(message)}: it does not know the name, or not the "
            "value; correct it, or remove it"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return untrusted(error)
    if "rejected SSL upgrade" in message:
        return UNENCRYPTED
    # Without a socket's file the server is away; any other file is one that the URL names.
    files = (FileNotFoundError, PermissionError) if not url.is_socket else ()
    if isinstance(error, (ValueError, configparser.Error, *files)):
        return (
            f"DATABASE_URL: a part of it cannot be used ({type(error).__name__}); check its options, the "
            "files that they name, its service file, and PG… variables"
        )
    return None

"""Errors as PostgREST answers them: a status, and a body with code, message, details and hint."""

from __future__ import annotations

from typing import Any

import asyncpg


class Failure(Exception):
    """An answer that is an error. Without a code it is the gateway's, whose body is shorter."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        details: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"message": message, "hint": hint}
        if code is not None:
            self.body |= {"code": code, "details": details}


STATUSES: tuple[tuple[str, int], ...] = (
    ("42501", 403),
    ("42883", 404),
    ("42P01", 404),
    ("42P17", 500),
    ("23503", 409),
    ("23505", 409),
    ("25006", 405),
    ("21000", 400),
    ("53400", 500),
    ("57P01", 503),
    ("P0001", 400),
    ("08", 503),
    ("09", 500),
    ("0L", 403),
    ("0P", 403),
    ("25", 500),
    ("28", 403),
    ("2D", 500),
    ("38", 500),
    ("39", 500),
    ("3B", 500),
    ("40", 500),
    ("53", 503),
    ("54", 500),
    ("55", 500),
    ("57", 500),
    ("58", 500),
    ("F0", 500),
    ("HV", 500),
    ("P0", 500),
    ("XX", 500),
)
"""The first that a code begins with counts; 400 where none does."""


def as_failure(error: Exception, *, anonymous: bool) -> Failure:
    """Return the answer to an error; one that is not the database's is raised again."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.InterfaceError | OSError):
        return Failure(503, "PGRST001", "Database client error. Retrying the connection.", details=str(error))
    if not isinstance(error, asyncpg.PostgresError):
        raise error
    code = error.sqlstate or "XX000"
    status = next((status for begin, status in STATUSES if code.startswith(begin)), 400)
    if code == "42501" and anonymous:
        status = 401
    if code.startswith("PT") and code[2:].isdigit():
        status = int(code[2:])
    return Failure(
        status,
        code,
        str(error.args[0]) if error.args else str(error),
        details=getattr(error, "detail", None),
        hint=getattr(error, "hint", None),
    )

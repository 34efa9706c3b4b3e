"""Errors of Postgres that a new session mends are outages, and are tried again."""

from __future__ import annotations

import asyncpg
import pytest

from unstale.errors import DatabaseUnavailable
from unstale_worker.runtime.postgres_errors import translate_errors


async def test_a_session_that_knows_what_a_restore_replaced_is_given_up() -> None:
    with pytest.raises(DatabaseUnavailable, match="cache lookup failed for type 16513"):
        async with translate_errors():
            raise asyncpg.InternalServerError("cache lookup failed for type 16513")


async def test_other_errors_of_a_statement_are_not_hidden() -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with translate_errors():
            raise asyncpg.DivisionByZeroError("division by zero")

"""Run an SQL file of the user's in an embedded database, statement by statement, and name what fails."""

from __future__ import annotations

import io
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from asyncpg.transaction import Transaction

from unstale.errors import ConfigurationError
from unstale_worker.dev_servers.statements import Kind, Statement, split
from unstale_worker.migration.folder import GENERATED

Tell = Callable[[str], None]

_EXTENSION = re.compile(
    r"""^\s*(?P<verb>create\s+extension(\s+if\s+not\s+exists)?|alter\s+extension|comment\s+on\s+extension)
        \s+(?P<name>"[^"]+"|[\w-]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_VERSION = re.compile(r"""\s+version\s+('[^']*'|"[^"]*"|[\w.]+)""", re.IGNORECASE)
_UNUSED = re.compile(
    r"^\s*select\s+(?:pg_catalog\.)?setval\s*\(\s*'([^']+)'\s*,\s*1\s*,\s*false\s*\)\s*$", re.IGNORECASE
)
_PLATFORM: Final = (
    "_realtime", "auth", "cron", "extensions", "graphql", "graphql_public", "net", "pgmq", "pgsodium",
    "realtime", "storage", "supabase_functions", "vault",
)  # fmt: skip
"""Schemas that the platform provides; a user's file uses what is in them, and does not create it."""
_MISSING: Final = (
    asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError, asyncpg.UndefinedObjectError,
)  # fmt: skip


class SqlFileError(ConfigurationError):
    """A statement of an SQL file failed; the message names file, line and statement, and what to do."""


@dataclass(slots=True)
class SqlRunner:
    """Run files on one connection, each in as few transactions as its statements allow.

    Args:
        tell: Receives a sentence about each statement that is left out.
    """

    connection: asyncpg.Connection
    tell: Tell
    _left_out: dict[str, str] = field(default_factory=dict)
    """Place of the first ``create extension`` of each extension that this server does not have."""
    _transaction: Transaction | None = None
    _committed: bool = False
    _generated: bool = False
    """True while the file is one that ``unstale migration`` wrote."""

    async def run(
        self, name: str, sql: str, *, finish: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Run the statements of the file `name`; `finish` is awaited in its last transaction.

        A file is one transaction, unless it contains statements that Postgres runs outside of one. Raises
        `SqlFileError`; what earlier transactions of the file did then stays.
        """
        self._committed, self._generated = False, GENERATED in sql
        try:
            for statement in split(sql):
                await self._run(name, statement)
            if finish is not None:
                await self._begin()
                await finish()
            await self._commit()
        finally:
            if not self.connection.is_closed():
                await self._rollback()
                await self.connection.execute("reset session authorization; reset role; reset all")

    async def _run(self, name: str, statement: Statement) -> None:
        place = f"{name}:{statement.line}"
        match statement.kind:
            case Kind.COMMAND:
                if not statement.ignored:
                    raise SqlFileError(
                        f"{place}: {statement.short!r} is a command of psql, not SQL; leave it out"
                    )
            case Kind.BEGIN:
                await self._begin()
            case Kind.COMMIT:
                await self._commit()
            case Kind.ROLLBACK:
                await self._rollback()
            case kind:
                if (text := await self._text(place, statement)) is None:
                    return
                if kind is Kind.ALONE:
                    await self._commit()
                else:
                    await self._begin()
                try:
                    if kind is Kind.COPY:
                        # The public method writes a statement of its own, without the file's options.
                        connection: Any = self.connection
                        await connection._copy_in(text, io.BytesIO(statement.data.encode()), None)
                    else:
                        await self.connection.execute(text)
                except asyncpg.PostgresError as error:
                    raise SqlFileError(self._sentence(name, statement, error)) from error
                self._committed |= kind is Kind.ALONE

    async def _text(self, place: str, statement: Statement) -> str | None:
        """Return the text to run; None for what this server cannot have and nothing needs yet."""
        if statement.kind is Kind.COPY and not statement.data:
            return None  # a dump's empty table, which may be one of the platform's
        if (unused := _UNUSED.match(statement.text)) is not None:
            exists = await self.connection.fetchval("select to_regclass($1) is not null", unused[1])
            return statement.text if exists else None
        extension = _EXTENSION.match(statement.text)
        if extension is None:
            return statement.text
        name = extension["name"].strip('"') if '"' in extension["name"] else extension["name"].lower()
        known = "select exists (select from pg_catalog.pg_available_extensions where name = $1)"
        if await self.connection.fetchval(known, name):
            return _VERSION.sub("", statement.text)  # there is one version here, whatever the project has
        if extension["verb"].lower().startswith("create"):
            self._left_out.setdefault(name, place)
            self.tell(
                f"{place}: left out `{statement.short}`: the embedded Postgres does not ship {name}; what "
                "needs it will fail"
            )
        return None

    def _sentence(self, name: str, statement: Statement, error: asyncpg.PostgresError) -> str:
        line = statement.line
        if (position := getattr(error, "position", None)) is not None:
            line = statement.line_at(int(position))
        parts = [f"{name}:{line}: {error.args[0]} in `{statement.short}`"]
        for further in (getattr(error, "detail", None), getattr(error, "hint", None)):
            if further:
                parts.append(" ".join(str(further).split()).rstrip("."))
        stays = " (its statements up to the last commit stay applied)" if self._committed else ""
        parts.append(f"{self._remedy(statement, error)}{stays}")
        return "; ".join(parts)

    def _remedy(self, statement: Statement, error: asyncpg.PostgresError) -> str:
        if isinstance(error, _MISSING):
            if self._left_out:
                listed = ", ".join(f"{name} of {place}" for name, place in self._left_out.items())
                return (
                    f"the embedded Postgres does not ship the extension {listed}: leave out what needs it, "
                    "or run your own Supabase and `unstale worker` instead of `unstale dev`"
                )
            if any(f"{schema}." in statement.text.replace('"', "") for schema in _PLATFORM):
                return (
                    "if Supabase provides it, `unstale dev` does not (docs/dev.md): leave the statement out, "
                    "or run your own Supabase and `unstale worker`"
                )
        if self._generated:
            return (
                "correct the rules, delete this file and later ones of its name, and run `unstale "
                "migration`; if another migration makes what is missing, give it an earlier number"
            )
        return "correct the file"

    async def _begin(self) -> None:
        if self._transaction is None:
            transaction = self.connection.transaction()
            await transaction.start()
            self._transaction = transaction

    async def _commit(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.commit()
            self._committed = True

    async def _rollback(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.rollback()

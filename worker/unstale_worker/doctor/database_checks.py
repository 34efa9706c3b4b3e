"""Check the Postgres database that holds the outbox."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from unstale.errors import Unavailable
from unstale.protocol.names import WORKER_ROLE
from unstale_worker.doctor import refresh_checks
from unstale_worker.doctor.findings import Check, Finding, error, error_of, ok, warning
from unstale_worker.doctor.schema_checks import SchemaChecks
from unstale_worker.rules import Rules
from unstale_worker.runtime.postgres_errors import translate_errors
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.sources.pooler import is_transaction_pooler
from unstale_worker.sources.postgres_connections import PostgresConnections
from unstale_worker.sql import statement

OLDEST: Final = 15
NEWEST_TESTED: Final = 18


class DatabaseChecks:
    """The checks of one database; enter `connected` before running `checks`."""

    def __init__(self, dsn: str, *, timeout: float, rules: Rules | None) -> None:
        self._connections = PostgresConnections(dsn, timeout)
        self._rules = rules
        self._source = OutboxSource(self._connections)

    @asynccontextmanager
    async def connected(self, findings: list[Finding]) -> AsyncIterator[bool]:
        """Connect; yield True if Postgres answers. The result is added to ``findings``."""
        try:
            pooled = await is_transaction_pooler(self._connections)
        except Unavailable as failure:
            findings.append(error_of("Postgres", failure, "Check DATABASE_URL and the server."))
            yield False
            return
        if pooled:
            findings.append(
                warning(
                    "pooler",
                    "DATABASE_URL leads to a transaction pooler, which passes no NOTIFY: the worker polls",
                    "Set DATABASE_URL to the direct connection or the session pooler (port 5432).",
                )
            )
        else:
            findings.append(ok("pooler", "no transaction pooler; sessions are not shared"))
        self._connections = PostgresConnections(
            self._connections.dsn, self._connections.timeout, pooled=pooled
        )
        self._source = OutboxSource(self._connections)
        try:
            yield True
        finally:
            await self._source.close()

    def checks(self) -> Sequence[tuple[str, Check]]:
        """Return subject and check, in order of execution."""
        schema = SchemaChecks(
            self._source,
            self._rules,
            own=lambda: self._rows("doctor_check"),
            queries_run="run, and no policy hides rows from them",
        )
        return (
            ("Postgres", self._server),
            ("role", self._role),
            *schema.checks(),
            (refresh_checks.SUBJECT, self._refreshes),
        )

    async def _server(self) -> AsyncIterator[Finding]:
        number = int(await self._value("doctor_version")) // 10_000
        if number < OLDEST:
            yield error("Postgres", f"version {number}", f"Upgrade to {OLDEST} or newer.")
        elif number > NEWEST_TESTED:
            yield warning(
                "Postgres",
                f"version {number} is newer than every tested version",
                f"Versions {OLDEST} to {NEWEST_TESTED} are tested; look for a newer unstale.",
            )
        else:
            yield ok("Postgres", f"version {number}")

    async def _role(self) -> AsyncIterator[Finding]:
        name, superuser, bypasses = await self._row("doctor_role")
        if name == WORKER_ROLE:
            yield ok("role", name)
        elif superuser or bypasses:
            what = "a superuser" if superuser else "a role that bypasses row level security"
            yield warning(
                "role",
                f"{name} is {what}, which is more than a worker needs",
                f"Let the worker connect as {WORKER_ROLE}: alter role {WORKER_ROLE} password '…'.",
            )
        else:
            yield ok("role", f"{name}, which must have the rights of {WORKER_ROLE}")

    async def _refreshes(self) -> AsyncIterator[Finding]:
        if self._rules is not None:
            async for finding in refresh_checks.queries(self._connections, self._rules):
                yield finding

    async def _value(self, name: str) -> str:
        return str((await self._row(name))[0])

    async def _row(self, name: str) -> asyncpg.Record:
        return (await self._rows(name))[0]

    async def _rows(self, name: str) -> list[asyncpg.Record]:
        async with self._source.borrow() as connection, translate_errors():
            return list(await connection.fetch(statement(name)))

"""Examines the Postgres that holds the outbox."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from unstale.errors import MigrationMissing, Unavailable
from unstale.names import WORKER_ROLE
from unstale_worker.checks import check_watches
from unstale_worker.doctor import refreshes
from unstale_worker.doctor.findings import Check, Finding, Severity, error, ok, warning
from unstale_worker.fanout import check_queries
from unstale_worker.rules import Rules
from unstale_worker.sources.connections import Connections, translated
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.sources.pooler import is_transaction_pooler
from unstale_worker.sql import statement

OLDEST: Final = 15
NEWEST_TESTED: Final = 18
PUSH: Final = "Run `unstale migration` and push the files it writes: `supabase db push`."


class Database:
    """The checks of one database; `connected` must be entered before `checks` are run."""

    def __init__(self, dsn: str, *, timeout: float, rules: Rules | None) -> None:
        self._connections = Connections(dsn, timeout)
        self._rules = rules
        self._source = OutboxSource(self._connections)

    @asynccontextmanager
    async def connected(self, findings: list[Finding]) -> AsyncIterator[bool]:
        """Yields whether Postgres answers; adds what that showed to ``findings``."""
        try:
            pooled = await is_transaction_pooler(self._connections)
        except Unavailable as failure:
            findings.append(
                error(
                    "Postgres", str(failure), "Check host, port, password and network access of DATABASE_URL."
                )
            )
            yield False
            return
        if pooled:
            findings.append(
                warning(
                    "pooler",
                    "a transaction pooler lies between: no NOTIFY passes it, so the worker polls",
                    "Give DATABASE_URL the direct connection or the session pooler (port 5432).",
                )
            )
        else:
            findings.append(ok("pooler", "sessions are our own"))
        self._connections = Connections(self._connections.dsn, self._connections.timeout, pooled=pooled)
        self._source = OutboxSource(self._connections)
        try:
            yield True
        finally:
            await self._source.close()

    def checks(self) -> Sequence[tuple[str, Check]]:
        """Subject and check, in the order they are run."""
        return (
            ("Postgres", self._server),
            ("role", self._role),
            ("outbox", self._outbox),
            ("captures", self._captures),
            ("schema", self._own_check),
            ("fan-out queries", self._queries),
            (refreshes.SUBJECT, self._refreshes),
        )

    async def _server(self) -> AsyncIterator[Finding]:
        number = int(await self._value("doctor_version")) // 10_000
        if number < OLDEST:
            yield error("Postgres", f"version {number}", f"Upgrade to {OLDEST} or newer.")
        elif number > NEWEST_TESTED:
            yield warning(
                "Postgres",
                f"version {number} is newer than any that was tested",
                f"Versions {OLDEST} to {NEWEST_TESTED} are known to work; look for a newer unstale.",
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
                f"{name} is {what}: more than a worker needs",
                f"Let it connect as {WORKER_ROLE}: alter role {WORKER_ROLE} password '…'.",
            )
        else:
            yield ok("role", f"{name}, which needs the rights of {WORKER_ROLE}")

    async def _outbox(self) -> AsyncIterator[Finding]:
        try:
            page = await self._source.read(None)
        except MigrationMissing as missing:
            yield error("outbox", str(missing), PUSH)
            return
        yield ok("outbox", f"can be read, at {page.lsn}")

    async def _captures(self) -> AsyncIterator[Finding]:
        if self._rules is None:
            return
        try:
            check_watches(self._rules, (await self._source.watch_versions()).values())
        except MigrationMissing as missing:
            yield error("captures", str(missing), PUSH)
            return
        tables = ", ".join(f"{schema}.{table}" for schema, table in self._rules.tables)
        yield ok("captures", f"watched as the rules need: {tables}")

    async def _own_check(self) -> AsyncIterator[Finding]:
        """What the schema says of itself: captures, event triggers, prepared transactions."""
        try:
            rows = await self._rows("doctor_check")
        except MigrationMissing as missing:
            yield error("schema", str(missing), PUSH)
            return
        for severity, subject, finding, remedy in rows:
            yield Finding(Severity(severity), subject, finding, remedy)
        if not rows:
            yield ok("schema", "captures fit their tables and follow ALTER TABLE")

    async def _queries(self) -> AsyncIterator[Finding]:
        if self._rules is None:
            return
        queries = [watch for watch in self._rules.watches if watch.query is not None]
        async with self._source.borrow() as connection:
            failures = await check_queries(connection, self._rules)
        for failure in failures:
            where = f"{self._rules.file}:{failure.watch.line}, query for {failure.watch.table}"
            yield error("fan-out queries", f"{where}: {failure.problem}", failure.remedy)
        if queries and not failures:
            yield ok("fan-out queries", f"{len(queries)} run, and no policy hides rows from them")

    async def _refreshes(self) -> AsyncIterator[Finding]:
        if self._rules is not None:
            async for finding in refreshes.queries(self._connections, self._rules):
                yield finding

    async def _value(self, name: str) -> str:
        return str((await self._row(name))[0])

    async def _row(self, name: str) -> asyncpg.Record:
        return (await self._rows(name))[0]

    async def _rows(self, name: str) -> list[asyncpg.Record]:
        async with self._source.borrow() as connection, translated():
            return list(await connection.fetch(statement(name)))

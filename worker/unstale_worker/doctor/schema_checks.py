"""Examines unstale's schema through a source: the same findings whichever way leads to the database."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final

from unstale.errors import MigrationMissing
from unstale_worker.doctor.findings import Check, Finding, Severity, error, ok
from unstale_worker.observe.preflight import check_watches
from unstale_worker.rules import Rules
from unstale_worker.sources import Source

PUSH: Final = "Run `unstale migration` and push the files it writes: `supabase db push`."


class SchemaDoctor:
    """The checks of outbox, captures and queries.

    Args:
        source: What reads the outbox; its owner closes it.
        rules: The rules that captures and queries have to fit; None: only what needs none is checked.
        own: What the schema says of itself: severity, subject, finding and remedy of each row.
        queries_run: What is said when every query ran, after their number.
    """

    def __init__(
        self,
        source: Source,
        rules: Rules | None,
        *,
        own: Callable[[], Awaitable[Sequence[Iterable[str]]]],
        queries_run: str,
    ) -> None:
        self._source, self._rules, self._own, self._queries_run = source, rules, own, queries_run

    def checks(self) -> Sequence[tuple[str, Check]]:
        """Subject and check, in the order they are run."""
        named = (
            ("outbox", self._outbox),
            ("captures", self._captures),
            ("schema", self._schema),
            ("fan-out queries", self._queries),
        )
        return [(subject, _pushing(subject, check)) for subject, check in named]

    async def _outbox(self) -> AsyncIterator[Finding]:
        page = await self._source.read(None)
        yield ok("outbox", f"can be read, at {page.lsn}")

    async def _captures(self) -> AsyncIterator[Finding]:
        if self._rules is None:
            return
        versions = (await self._source.watch_versions()).values()
        check_watches(self._rules, versions)
        tables = ", ".join(f"{schema}.{table}" for schema, table in self._rules.tables)
        yield ok("captures", f"watched as the rules need: {tables}")
        if unused := sorted(
            {(each.schema, each.table) for each in versions if each.current} - {*self._rules.tables}
        ):
            yield Finding(
                Severity.INFO,
                "captures",
                f"watched, and no rule here names them: {', '.join(map('.'.join, unused))}",
                "If no other worker needs them, their writers pay for nothing: run `unstale migration` and "
                "push, or `select unstale.unwatch('schema.table')`.",
            )

    async def _schema(self) -> AsyncIterator[Finding]:
        """What the schema says of itself: captures, event triggers, prepared transactions."""
        rows = await self._own()
        for severity, subject, finding, remedy in rows:
            yield Finding(Severity(severity), subject, finding, remedy)
        if not rows:
            yield ok("schema", "captures fit their tables and follow ALTER TABLE")

    async def _queries(self) -> AsyncIterator[Finding]:
        if self._rules is None:
            return
        failures = await self._source.check_queries(self._rules)
        for failure in failures:
            where = f"{self._rules.file}:{failure.watch.line}, query for {failure.watch.table}"
            yield error("fan-out queries", f"{where}: {failure.problem}", failure.remedy)
        queries = [watch for watch in self._rules.watches if watch.query is not None]
        if queries and not failures:
            yield ok("fan-out queries", f"{len(queries)} {self._queries_run}")


def _pushing(subject: str, check: Check) -> Check:
    """``check``, where what a push heals is a finding with that remedy."""

    async def run() -> AsyncIterator[Finding]:
        try:
            async for finding in check():
                yield finding
        except MigrationMissing as missing:
            yield error(subject, str(missing), PUSH)

    return run

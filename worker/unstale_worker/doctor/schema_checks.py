"""Check unstale's schema through a source, with the same findings for both kinds of source."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final

from unstale.errors import MigrationMissing
from unstale_worker.doctor.findings import Check, Finding, Severity, error, ok
from unstale_worker.observe.preflight import check_watches
from unstale_worker.rules import Rules
from unstale_worker.sources import Source

PUSH: Final = "Run `unstale migration` and push the files it writes: `supabase db push`."


class SchemaChecks:
    """The checks of outbox, captures and queries.

    Args:
        source: The source that reads the outbox; its owner closes it.
        rules: The rules that captures and queries must match; None skips the checks that need rules.
        own: Returns the findings of the schema itself: severity, subject, finding and remedy of each row.
        queries_run: Text of the finding that every query ran, after their number.
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
        """Return subject and check, in order of execution."""
        named = (
            ("outbox", self._outbox),
            ("captures", self._captures),
            ("schema", self._schema),
            ("fan-out queries", self._queries),
        )
        return [(subject, _with_push_remedy(subject, check)) for subject, check in named]

    async def _outbox(self) -> AsyncIterator[Finding]:
        page = await self._source.read(None)
        yield ok("outbox", f"can be read; the database is at {page.lsn}")

    async def _captures(self) -> AsyncIterator[Finding]:
        if self._rules is None:
            return
        versions = (await self._source.watch_versions()).values()
        check_watches(self._rules, versions)
        tables = ", ".join(f"{schema}.{table}" for schema, table in self._rules.tables)
        yield ok("captures", f"all tables are watched as the rules need: {tables}")
        if unused := sorted(
            {(each.schema, each.table) for each in versions if each.current} - {*self._rules.tables}
        ):
            yield Finding(
                Severity.INFO,
                "captures",
                f"watched, but no rule here names them: {', '.join(map('.'.join, unused))}",
                "If no other worker needs them, stop watching them, because captures slow writers down: run "
                "`unstale migration` and push, or `select unstale.unwatch('schema.table')`.",
            )

    async def _schema(self) -> AsyncIterator[Finding]:
        """Report the findings of the schema itself: captures, event triggers, prepared transactions."""
        rows = await self._own()
        for severity, subject, finding, remedy in rows:
            yield Finding(Severity(severity), subject, finding, remedy)
        if not rows:
            yield ok("schema", "captures match their tables and follow ALTER TABLE")

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


def _with_push_remedy(subject: str, check: Check) -> Check:
    """Wrap ``check`` so that missing migrations become a finding with the remedy to push them."""

    async def run() -> AsyncIterator[Finding]:
        try:
            async for finding in check():
                yield finding
        except MigrationMissing as missing:
            yield error(subject, str(missing), PUSH)

    return run

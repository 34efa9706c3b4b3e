"""Check unstale's schema through a source, with the same findings for both kinds of source."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from unstale.errors import MigrationMissing
from unstale_worker.captures.coverage import coverage
from unstale_worker.doctor.findings import Check, Finding, Severity, error, ok
from unstale_worker.migration.folder import Folder
from unstale_worker.observe.preflight import check_watches
from unstale_worker.rules import Rules, TableName
from unstale_worker.sources import Source

PUSH: Final = "Run `unstale migration` and push the files it writes: `supabase db push`."
PUSH_ALL: Final = (
    "The files in supabase/migrations say so already. Push those that are not: `supabase db push`. If "
    "all are, the database has lost what they made: run `unstale migration --all` and push."
)


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
        try:
            check_watches(self._rules, versions)
        except MigrationMissing as missing:
            yield error("captures", str(missing), PUSH_ALL if _written(self._rules) else PUSH)
        broken = coverage(self._rules, await self._source.watch_states()).broken
        good = [str(table) for each in self._rules.tables if (table := TableName(*each)) not in broken]
        if good:
            which = "watched" if broken else "all tables are watched"
            yield ok("captures", f"{which} as the rules need: {', '.join(good)}")
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


def _written(rules: Rules) -> bool:
    """Return True if the migrations beside the rules file watch every table as the rules need already."""
    folder = Path(rules.file).parent / "supabase" / "migrations"
    watched = Folder(folder).state().watched
    return all(watched.get(TableName(*table)) == needs for table, needs in rules.tables.items())


def _with_push_remedy(subject: str, check: Check) -> Check:
    """Wrap ``check`` so that missing migrations become a finding with the remedy to push them."""

    async def run() -> AsyncIterator[Finding]:
        try:
            async for finding in check():
                yield finding
        except MigrationMissing as missing:
            yield error(subject, str(missing), PUSH)

    return run

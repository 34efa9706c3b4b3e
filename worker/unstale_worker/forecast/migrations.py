"""Compare the rules with the migrations of a folder, and with the captures of a database."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unstale.errors import UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.captures.coverage import missing_columns, narrower_filter
from unstale_worker.forecast.names import unknown_names
from unstale_worker.migration.folder import Folder
from unstale_worker.migration.query_function import query_hash
from unstale_worker.migration.writer import WrittenMigration
from unstale_worker.rules import Rules, TableName
from unstale_worker.runtime.logs import without_passwords
from unstale_worker.runtime.postgres_errors import translate_errors
from unstale_worker.sources import WatchState
from unstale_worker.sources.opening import check_settings, open_source
from unstale_worker.sources.outbox import OutboxSource

WRITE: Final = "run `unstale migration` and commit the files it writes"
PUSH: Final = (
    "push the migrations (`supabase db push`); if they are pushed already, the database has lost what they "
    "made: run `unstale migration --all` and push"
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which migrations or database do not match the rules.

    Attributes:
        file: The file that is concerned, with its line if it is the rules file.
        table: The table, or None.
        problem: The difference, as a sentence without a full stop.
        remedy: The remedy, likewise.
    """

    file: str
    table: str | None
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Compared:
    """Result of a comparison with the database.

    Attributes:
        differences: What the database lacks.
        skipped: Why the database was not compared; empty if it was.
        captures: The state of its captures.
        failed: True if the settings name a database and it could not be compared.
        unknown: Tables and columns of the rules that neither the database nor a migration has, as sentences.
    """

    differences: tuple[Difference, ...] = ()
    skipped: str = ""
    captures: tuple[WatchState, ...] = ()
    failed: bool = False
    unknown: tuple[str, ...] = ()


def differences(rules: Rules, folder: Path, wanted: WrittenMigration) -> list[Difference]:
    """Return what the files in ``folder`` lack; ``wanted`` is what a dry `write_migration` would write."""
    found = list(_differences(rules, folder, wanted))
    if not found and wanted.path is not None:
        problem = f"the newest migration in {folder} was written for other rules"
        found.append(Difference(rules.file, None, problem, WRITE))
    return found


def _differences(rules: Rules, folder: Path, wanted: WrittenMigration) -> Iterator[Difference]:
    there = Folder(folder)
    state = there.state()
    for path in wanted.base:
        what = path.name.partition("_")[2]
        lacks = "is missing" if there.newest(what) is None else "is, or follows, one of another version"
        yield Difference(str(folder / f"*_{what}"), None, f"unstale's own migration {lacks}", WRITE)
    for table in wanted.watched:
        where, text = _line(rules, table), str(table)
        if table not in state.watched:
            yield Difference(where, text, f"no migration in {folder} watches {text}", WRITE)
        elif state.watched[table] != rules.tables[table.schema, table.name]:
            yield Difference(where, text, f"the migrations in {folder} watch other columns of {text}", WRITE)
    for table in wanted.unwatched:
        problem = f"the migrations in {folder} watch {table}, which no rule names"
        yield Difference(rules.file, str(table), problem, WRITE)
    for table in wanted.opened:
        if table not in state.reads:
            problem = f"no migration in {folder} lets the worker read {table}, as a query or loader does"
            yield Difference(rules.file, str(table), problem, WRITE)
    for table in wanted.closed:
        problem = f"the migrations in {folder} let the worker read {table}, which it no longer does"
        yield Difference(rules.file, str(table), problem, WRITE)
    for watch in rules.watches:
        if watch.query is not None and wanted.queries and query_hash(watch) not in state.queries:
            where, table_name = f"{rules.file}:{watch.line}", str(watch.table)
            problem = f"no migration in {folder} has the query on {table_name}"
            yield Difference(where, table_name, problem, WRITE)
    if wanted.dropped:
        yield Difference(rules.file, None, f"the migrations in {folder} have a query that no rule has", WRITE)


async def compare_database(settings: WorkerSettings, rules: Rules, folder: Path) -> Compared:
    """Compare the rules with the database that the settings name, if it can be reached.

    Its tables and columns are known only over a connection to Postgres.
    """
    unknown: tuple[str, ...] = ()
    try:
        check_settings(settings)
        source = await open_source(settings)
        try:
            if isinstance(source, OutboxSource):
                async with translate_errors(), source.borrow() as connection:
                    unknown = tuple(await unknown_names(connection, rules, folder))
            captures = tuple(await source.watch_states())
            return Compared(tuple(lacking(rules, captures)), captures=captures, unknown=unknown)
        finally:
            await source.close()
    except UnstaleError as error:
        named = settings.database_url is not None or settings.supabase_url is not None
        return Compared(skipped=without_passwords(str(error)), failed=named, unknown=unknown)


def lacking(rules: Rules, states: Iterable[WatchState]) -> Iterator[Difference]:
    """Yield what the captures of a database lack."""
    current = {(state.schema, state.table): state for state in states if state.current}
    for (schema, name), needs in rules.tables.items():
        table, state, remedy = TableName(schema, name), current.get((schema, name)), PUSH
        if state is None:
            problem = f"the database does not watch {table}"
        elif state.broken:
            reason, _, its_own = state.broken.partition("; ")
            problem, remedy = f"the database does not capture {table}: {reason}", its_own or PUSH
        elif narrower := narrower_filter(needs, state.key_columns, state.columns):
            problem = f"the database's capture of {table} {narrower}"
        elif columns := missing_columns(needs, state.key_columns):
            problem = f"the database's capture of {table} lacks {', '.join(columns)}"
        else:
            continue
        yield Difference(_line(rules, table), str(table), problem, remedy)


def _line(rules: Rules, table: TableName) -> str:
    return f"{rules.file}:{next(watch.line for watch in rules.watches if watch.table == table)}"

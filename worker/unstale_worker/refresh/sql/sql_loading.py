"""Loads the values of many keys in one query, and names the keys that cannot be loaded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from unstale.errors import DatabaseUnavailable
from unstale_worker.refresh.sql.sql_statements import Connection, LoaderProblem, Statement, statement_for
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.runtime.postgres_errors import ends_session
from unstale_worker.sql import statement

NOT_FOUND: Final = b"null"
"""Value of a key without a row: the same as of a loader that returns None."""

SLOW_MOST: Final = 12
"""Loads of one batch that may take too long: enough to find one slow key among 500 by halving."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Result of loading some keys of one refresh.

    Attributes:
        values: Key and its value's JSON.
        failures: Key and what is wrong with it, without values, as a sentence.
    """

    values: dict[str, bytes]
    failures: dict[str, str]


class Statements:
    """Statements of one session; built again when Postgres refuses one, as tables change.

    Args:
        pooled: True behind a transaction pooler, where nothing lasts longer than a transaction.
    """

    def __init__(self, *, pooled: bool) -> None:
        self._pooled = pooled
        self._known: dict[str, Statement] = {}

    async def begin(self, connection: Connection) -> None:
        """Set up a fresh session for loaders."""
        if not self._pooled:
            await connection.fetchrow(statement("refresh_session"), False)

    @asynccontextmanager
    async def transaction(self, connection: Connection) -> AsyncIterator[None]:
        """Set up what loads inside for loaders; only a pooler needs a transaction for that."""
        if not self._pooled:
            yield
            return
        async with connection.transaction(readonly=True):
            session = await connection.fetchrow(statement("refresh_session"), True)
            if session is not None and session["standby"]:
                raise DatabaseUnavailable("the pooler led a loader to a standby; it must lead to the primary")
            yield

    async def get(self, connection: Connection, spec: RefreshSpec) -> Statement:
        """Return the statement of ``spec``; see `statement_for`."""
        known = self._known.get(spec.template.text)
        if known is None:
            known = self._known[spec.template.text] = await statement_for(connection, spec)
        return known

    async def forget(self, connection: Connection, spec: RefreshSpec) -> None:
        """Build and prepare the statement again on its next use."""
        self._known.pop(spec.template.text, None)
        await connection.reload_schema_state()  # drops what asyncpg has prepared, too


async def load(
    connection: Connection, statements: Statements, spec: RefreshSpec, keys: Sequence[str]
) -> Loaded:
    """Load ``keys`` from the primary, read only, with snapshots taken after this call.

    A key that Postgres refuses fails alone (a segment that is not a number, two rows, an error that a
    function raises for it). A mistake in the query or the table fails all keys. Keys that are in neither
    result were not tried: many of the others took too long.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError: The session is broken.
        DatabaseUnavailable: A pooler led to a standby.
    """
    loaded = Loaded({}, {})
    problem = await _refused(connection, statements, spec, keys, loaded)
    if problem is not None and not problem.slow:
        # A fresh statement tells an altered table from a mistake.
        problem = await _refused(connection, statements, spec, keys, loaded)
    if problem is None:
        return loaded
    # A run without a key tells a mistake of the loader from that of a key.
    whole = await _refused(connection, statements, spec, [], loaded)
    if whole is not None:
        loaded.failures.update((key, str(whole)) for key in keys)
    elif len(keys) == 1:
        loaded.failures[keys[0]] = problem.of_key
    else:
        await _halve(connection, statements, spec, keys, loaded, _Patience(problem.slow))
    return loaded


async def check(connection: Connection, statements: Statements, spec: RefreshSpec) -> str | None:
    """Run a loader for no key; returns what is wrong with it, or None. Raises what `load` raises."""
    problem = await _refused(connection, statements, spec, [], Loaded({}, {}))
    return None if problem is None else f"line {spec.line}, refresh of {spec.template.text}: {problem}"


async def _refused(
    connection: Connection, statements: Statements, spec: RefreshSpec, keys: Sequence[str], into: Loaded
) -> LoaderProblem | None:
    """Load all keys together; return what is wrong if that is refused. The statement is then built again."""
    try:
        await _attempt(connection, statements, spec, keys, into)
    except LoaderProblem as problem:
        await statements.forget(connection, spec)
        return problem
    return None


@dataclass(slots=True)
class _Patience:
    """Number of loads of one batch that took too long."""

    slow: int


async def _halve(
    connection: Connection,
    statements: Statements,
    spec: RefreshSpec,
    keys: Sequence[str],
    into: Loaded,
    patience: _Patience,
) -> None:
    """Load the halves of keys that failed together, down to the single ones that are to blame."""
    middle = len(keys) // 2
    for half in (keys[:middle], keys[middle:]):
        if patience.slow >= SLOW_MOST:
            return
        problem = await _refused(connection, statements, spec, half, into)
        if problem is None:
            continue
        patience.slow += problem.slow
        if len(half) == 1:
            into.failures[half[0]] = problem.of_key
        else:
            await _halve(connection, statements, spec, half, into, patience)


async def _attempt(
    connection: Connection, statements: Statements, spec: RefreshSpec, keys: Sequence[str], into: Loaded
) -> None:
    """Load all keys together; raises `LoaderProblem` if that is refused."""
    try:
        async with asyncio.timeout(spec.timeout):
            records = await _fetch(connection, statements, spec, keys)
    except TimeoutError:
        if connection.is_closed():
            raise
        raise LoaderProblem(
            f"it took longer than {spec.timeout:g} s",
            "Add an index for it, or raise the refresh's timeout.",
            slow=True,
        ) from None
    except (LoaderProblem, DatabaseUnavailable, OSError):
        raise
    except asyncpg.PostgresError as error:
        if ends_session(error) or connection.is_closed():
            raise
        raise _problem(error) from error
    except Exception as error:  # asyncpg cannot send a field, or cannot read a result
        if connection.is_closed():
            raise
        problem = f"its fields or its result cannot be converted ({type(error).__name__})"
        raise LoaderProblem(problem, "Cast them in the query: x::text.") from error
    found: dict[str, bytes] = {}
    several: set[str] = set()
    for number, value in records:
        key = keys[number]
        if key in found:
            several.add(key)
        found[key] = NOT_FOUND if value is None else value.encode()
    for key in keys:
        if key in several:
            into.failures[key] = (
                "the loader found more than one row. Select one, or make them one: "
                "select jsonb_agg(x) as value from ..."
            )
        else:
            into.values[key] = found.get(key, NOT_FOUND)


async def _fetch(
    connection: Connection, statements: Statements, spec: RefreshSpec, keys: Sequence[str]
) -> list[asyncpg.Record]:
    """Run the query; raises if a policy may have hidden a row."""
    async with statements.transaction(connection):
        made = await statements.get(connection, spec)
        fields = [spec.fields(key) for key in keys]
        columns = [[of[name] for of in fields] for name in made.fields]
        numbers = list(range(len(keys)))
        records: list[asyncpg.Record] = await connection.fetch(made.sql, numbers, *columns)
    if records and records[-1][0] == -1:  # or a view reads with its owner's rights: Postgres tells
        async with connection.transaction(readonly=True):
            await connection.fetchrow(statement("fanout_session"), "off")
            records = await connection.fetch(made.plain, numbers, *columns)
    return records


def _problem(error: asyncpg.PostgresError) -> LoaderProblem:
    code: str = error.sqlstate or "XX000"
    if code == "42501":
        remedy = "Let the worker's role read it: run unstale migration and push the file it writes."
        return LoaderProblem(_first_line(error), remedy)
    if code.startswith("42"):  # names and syntax; other classes quote row values
        return LoaderProblem(_first_line(error), "Correct the refresh's query, or create what it names.")
    of_key = ""
    if isinstance(error, asyncpg.DataError):
        of_key = f"Postgres cannot read a field of the key ({type(error).__name__}). "
        of_key += "Drop its dead letter: it is not a key of this refresh."
    problem = f"Postgres refused it ({type(error).__name__})"
    return LoaderProblem(problem, "Run it by hand to see why.", of_key=of_key)


def _first_line(error: asyncpg.PostgresError) -> str:
    """Return the message without its details, which quote row values."""
    return str(error).partition("\n")[0].rstrip(".")

"""Asks Postgres which tables a statement reads: through views, policies, functions and partitions."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from unstale.companion.recording.plan_columns import read_columns
from unstale.companion.recording.plan_text import Plan, bare, called, named_tables, read_plan
from unstale.companion.recording.reading import Equal, Reading, Table

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_TABLE_KINDS: Final = ("r", "p")
_DOUBTED_KINDS: Final = {
    "m": "the materialized view {table} is read: it changes when it is refreshed, and no rule can watch it",
    "f": "the foreign table {table} is read: its changes elsewhere cannot be watched here",
}
_DYNAMIC: Final = re.compile(r"\bexecute\b", re.IGNORECASE)


@cache
def sql(name: str) -> str:
    """Return the text of ``sql/<name>.sql``."""
    return files("unstale.companion.recording").joinpath("sql", f"{name}.sql").read_text("utf-8")


async def explain(connection: "Connection", statement: str) -> Reading:
    """Return what ``statement`` reads for the present role and search path; changes nothing.

    The statement is planned, not run. Errors of Postgres become doubts.
    """
    explainer = _Explainer(connection)
    try:
        async with undone(connection):
            await connection.execute(sql("planner"))
            await explainer.statement(statement)
            return await explainer.reading()
    except asyncpg.PostgresError as error:
        return Reading(doubts=(f"Postgres cannot plan it: {error}",))
    finally:
        if explainer.prepared:  # a prepared statement outlives its transaction
            await connection.execute(sql("deallocate"))


async def explain_table(connection: "Connection", table: Table) -> Reading:
    """Return what ``select * from table`` reads; ``table`` may be a view."""
    return await explain(
        connection, sql("explain_table").partition(") ")[2].replace("@{table}", _quoted(table))
    )


async def explain_function(connection: "Connection", function: Table) -> Reading:
    """Return what the functions of this name read."""
    explainer = _Explainer(connection)
    try:
        async with undone(connection):
            await connection.execute(sql("planner"))
            await explainer.functions({(function.schema, function.name)})
            return await explainer.reading()
    except asyncpg.PostgresError as error:
        return Reading(doubts=(f"Postgres cannot analyze it: {error}",))


@asynccontextmanager
async def undone(connection: "Connection") -> AsyncIterator[None]:
    """Undo what the block does: in a transaction of its own, or in a savepoint of the one that is open."""
    inside = connection.is_in_transaction()
    await connection.execute(sql("savepoint" if inside else "begin"))
    try:
        yield
    finally:
        await connection.execute(sql("undo" if inside else "rollback"))


class _Explainer:
    """Collects what one statement reads, inside a transaction that is rolled back."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._tables: dict[Table, None] = {}
        self._equal: dict[Equal, None] = {}
        self._doubts: dict[str, None] = {}
        self._done: set[int] = set()
        self._plan: object = None
        self.prepared = False

    async def statement(self, text: str) -> None:
        """Plan a statement with parameters; raises `asyncpg.PostgresError`."""
        connection = self._connection
        await connection.execute(sql("prepare").replace("@{query}", text))
        self.prepared = True
        count = await connection.fetchval(sql("parameters"))
        nulls = f"({', '.join(['null'] * count)})" if count else ""
        plan = await connection.fetchval(sql("explain_prepared").replace("@{arguments}", nulls))
        self._plan = json.loads(plan) if isinstance(plan, str) else plan
        await connection.execute(sql("deallocate"))
        self.prepared = False
        await self._take(plan, also=text)

    async def functions(self, names: set[tuple[str | None, str]]) -> None:
        """Follow the functions that have these names."""
        rows = await self._connection.fetch(sql("functions"), sorted({name for _, name in names}))
        for row in rows:
            wanted = (row["schema"], row["name"]) in names or (
                row["visible"] and (None, row["name"]) in names
            )
            if wanted and row["oid"] not in self._done:
                self._done.add(row["oid"])
                await self._function(row)

    async def reading(self) -> Reading:
        """Return what was found, with each partition under its root."""
        tables = list(self._tables)
        rows = await self._connection.fetch(
            sql("roots"), [table.schema for table in tables], [table.name for table in tables]
        )
        found: dict[Table, tuple[Table, ...]] = {}
        for row in rows:
            table, root = Table(row["schema"], row["name"]), Table(row["root_schema"], row["root_name"])
            if row["kind"] in _TABLE_KINDS:
                parts = found.get(root, ())
                found[root] = parts if table == root else (*parts, table)
            elif row["kind"] in _DOUBTED_KINDS:
                self._doubts[_DOUBTED_KINDS[row["kind"]].format(table=_quoted(table))] = None
        roots = {part: root for root, parts in found.items() for part in parts}
        equal = tuple(
            Equal(
                roots.get(each.table, each.table), each.column,
                None if each.other is None else roots.get(each.other, each.other),
                each.other_column, each.parameter,
            )
            for each in self._equal
        )  # fmt: skip
        columns = await self._columns(roots)
        return Reading(found, tuple(dict.fromkeys(equal)), tuple(self._doubts), columns)

    async def _columns(self, roots: Mapping[Table, Table]) -> dict[Table, tuple[str, ...]]:
        """Return the columns that the statement itself reads, those of a partition under its root.

        Without a primary key every change of a table counts, whatever the columns of a rule.
        """
        tables = list(self._tables) if self._plan is not None else []
        rows = await self._connection.fetch(
            sql("columns"), [table.schema for table in tables], [table.name for table in tables]
        )
        known = {Table(row["schema"], row["name"]): row for row in rows if row["fixed"]}
        named = read_columns(self._plan, {table: row["columns"] for table, row in known.items()})
        found: dict[Table, set[str]] = {}
        for table, columns in named.items():
            found.setdefault(roots.get(table, table), set()).update(columns - set(known[table]["fixed"]))
        return {table: tuple(sorted(columns)) for table, columns in found.items() if columns}

    async def _take(self, document: Any, *, also: str = "") -> None:
        plan: Plan = read_plan(json.loads(document) if isinstance(document, str) else document)
        self._tables.update(plan.tables)
        self._equal.update(plan.equal)
        await self.functions(plan.functions | called(bare(also)))

    async def _function(self, row: asyncpg.Record) -> None:
        name = f"{row['schema']}.{row['name']}"
        try:
            async with undone(self._connection):
                if row["search_path"] is not None:
                    await self._connection.fetchval(sql("search_path"), row["search_path"].replace('""', ""))
                if row["language"] == "sql":
                    await self._sql_function(row["oid"])
                body = await self._connection.fetchval(sql("body"), row["oid"])
                if row["language"] == "plpgsql":
                    await self._plpgsql_function(body, name)
                elif row["language"] not in ("sql", "c", "internal"):
                    self._doubts[f"the function {name} in {row['language']} may read other tables"] = None
                await self.functions(called(bare(body)))
        except asyncpg.PostgresError as error:
            self._doubts[f"the function {name} could not be analyzed: {error}"] = None

    async def _sql_function(self, oid: int) -> None:
        before = await self._locked()
        await self._connection.fetchval(sql("analyze_function"), oid)
        self._tables.update(dict.fromkeys(await self._locked() - before))

    async def _plpgsql_function(self, body: str, name: str) -> None:
        """Follow the tables that the text names; Postgres plans them only when the function runs."""
        if _DYNAMIC.search(bare(body)):
            self._doubts[f"the function {name} builds SQL when it runs, which may read other tables"] = None
        names = [each for each in named_tables(body) if await self._known(each)]
        for row in await self._connection.fetch(sql("named"), names):
            table = Table(row["schema"], row["name"])
            if row["kind"] != "v":
                self._tables[table] = None
            try:
                async with undone(self._connection):
                    plan = await self._connection.fetchval(
                        sql("explain_table").replace("@{table}", _quoted(table))
                    )
                    await self._take(plan)
            except asyncpg.InsufficientPrivilegeError:
                if row["kind"] == "v":
                    self._doubts[f"the view {_quoted(table)} may not be read, so its tables are unknown"] = (
                        None
                    )

    async def _known(self, name: str) -> bool:
        """Return True if the catalog may be asked for ``name``, which is an error for some texts."""
        try:
            async with undone(self._connection):
                await self._connection.fetch(sql("named"), [name])
        except asyncpg.PostgresError:
            return False
        return True

    async def _locked(self) -> set[Table]:
        return {Table(row["schema"], row["name"]) for row in await self._connection.fetch(sql("locked"))}


def _quoted(table: Table) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in (table.schema, table.name))

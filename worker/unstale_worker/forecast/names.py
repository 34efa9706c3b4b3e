"""Find tables and columns of the rules that neither the database nor a migration of the folder has."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import asyncpg

from unstale_worker.migration.folder import Folder
from unstale_worker.rules import Rules, TableName
from unstale_worker.sql import statement


async def unknown_names(connection: asyncpg.Connection, rules: Rules, folder: Path) -> list[str]:
    """Return a sentence for each watch with such a name: a migration made from it could not be applied.

    A name that stands in any migration of the user's own counts as known, because the database may lack
    files that are not pushed yet.
    """
    columns: dict[TableName, set[str]] = {}
    for schema, table, found in await connection.fetch(statement("all_columns")):
        columns[TableName(schema, table)] = set(found)
    if not any(TableName(*table) in columns for table in rules.tables):
        return []  # an empty database, before its first migration
    return list(_unknown(rules, columns, Folder(folder).own_words()))


def _unknown(rules: Rules, columns: dict[TableName, set[str]], words: set[str]) -> Iterator[str]:
    for watch in rules.watches:
        needs = rules.tables[watch.table.schema, watch.table.name]
        place = f"{rules.file}:{watch.line}"
        if watch.table not in columns:
            if watch.table.name.lower() not in words:
                yield f"{place}: there is no table {watch.table}{_near(str(watch.table), map(str, columns))}"
            continue
        for column in dict.fromkeys((*needs.keys, *(needs.columns or ()))):
            if column not in columns[watch.table] and column.lower() not in words:
                yield f"{place}: {watch.table} has no column {column}{_near(column, columns[watch.table])}"


def _near(name: str, known: Iterator[str] | set[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""

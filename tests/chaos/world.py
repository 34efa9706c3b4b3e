"""The world of the chaos run: its tables, its keys, and the rows each value is made of."""

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import asyncpg

from unstale_worker.rules import Rules

ITEMS: Final = 120
GROUPS: Final = 12
NOTES: Final = 40
HOT: Final = 10
"""Items that half of the reads and writes concern."""

FOLDER: Final = Path(__file__).parent
RULES: Final = FOLDER / "unstale.toml"

Value = dict[str, dict[str, int | None]]


@cache
def statement(name: str) -> str:
    """The text of ``sql/<name>.sql``."""
    return (FOLDER / "sql" / f"{name}.sql").read_text()


async def fill(connection: asyncpg.Connection) -> None:
    """Make tables, rows, and the captures that the rules need."""
    await connection.execute(statement("schema"))
    await connection.execute(statement("seed"), ITEMS, GROUPS, NOTES)
    for _, table in Rules.load(RULES).tables:
        await watch(connection, table)


def wider_rules() -> str:
    """The rules, without the filter by columns and with one more key for each group."""
    text = RULES.read_text()
    for before, after in (
        ('columns = ["version"]\n', ""),
        ('"view:{member}", ', '"view:{member}", "trace:group-of:{member}", '),
    ):
        assert before in text
        text = text.replace(before, after)
    return text


async def watch(connection: Any, table: str, rules: Path = RULES) -> None:
    """Watch a table of the schema public as the rules need."""
    needs = Rules.load(rules).tables["public", table]
    columns = needs.columns and list(needs.columns)
    await connection.execute(statement("watch"), "public", table, list(needs.keys), columns)


def rows_of(key: str) -> tuple[str, ...]:
    """The rows that the value of ``key`` is made of."""
    kind, _, number = key.partition(":")
    if kind in ("view", "page"):
        return (f"item:{number}", f"group:{int(number) % GROUPS}")
    if kind == "memo":
        return (f"note:{number}",)
    return (key,)


def tags_of(key: str) -> list[str] | None:
    """The tags of the value of ``key``: a page has one for each of its rows, and no rule names its key."""
    if not key.startswith("page:"):
        return None
    return [row.replace(":", "s:") for row in rows_of(key)]


def keys() -> Iterator[str]:
    """Every key."""
    for number in range(ITEMS):
        yield f"item:{number}"
        yield f"view:{number}"
        yield f"page:{number}"
    for number in range(NOTES):
        yield f"note:{number}"
        yield f"memo:{number}"


def some_item(chance: random.Random) -> int:
    """An item, often a hot one."""
    return chance.randrange(HOT if chance.random() < 0.5 else ITEMS)


def some_key(chance: random.Random) -> str:
    """A key, often a hot one."""
    dice = chance.random()
    if dice < 0.45:
        return f"item:{some_item(chance)}"
    if dice < 0.84:
        return f"{'view' if dice < 0.65 else 'page'}:{some_item(chance)}"
    return f"{'note' if dice < 0.93 else 'memo'}:{chance.randrange(NOTES)}"


async def load(connection: Any, key: str) -> Value | None:
    """The value of ``key`` as the database has it now, read in one statement; None: no such note."""
    rows = rows_of(key)
    kind, _, number = key.partition(":")
    kind = {"memo": "note", "page": "view"}.get(kind, kind)
    arguments = [int(number)] if kind != "view" else [int(row.partition(":")[2]) for row in rows]
    found = await connection.fetchrow(statement(f"load_{kind}"), *arguments)
    if found is None and kind == "note":
        return None
    return {"versions": dict(zip(rows, found or (None,), strict=True))}

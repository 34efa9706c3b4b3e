"""Loaders that tests name in their rules: they count their calls, and behave as a test says.

They run in a process of their own. What a test and its loaders share is in a database file, whose path every
process below the test finds in the environment.
"""

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx2
import openai

from unstale import Refresh

_VARIABLE = "TEST_REFRESH_LOADERS"
_TABLES = """
create table if not exists facts (kind text, key text, value any, primary key (kind, key));
create table if not exists counts (name text primary key, number int);
insert or ignore into counts values ('running', 0), ('most_running', 0), ('opened', 0);
"""


def _database() -> sqlite3.Connection:
    if _VARIABLE not in os.environ:
        os.environ[_VARIABLE] = str(Path(tempfile.mkdtemp(prefix="unstale-test-")) / "loaders.db")
    connection = sqlite3.connect(os.environ[_VARIABLE], isolation_level=None, timeout=60)
    connection.execute("pragma synchronous = off")
    connection.executescript(_TABLES)
    return connection


def _run(sql: str, *values: Any) -> list[Any]:
    with contextlib.closing(_database()) as connection:
        return connection.execute(sql, values).fetchall()


class Shared(MutableMapping[str, Any]):
    """One kind of facts about keys as a dict."""

    def __init__(self, kind: str, default: Any = None) -> None:
        self._kind, self._default = kind, default

    def __getitem__(self, key: str) -> Any:
        found = _run("select value from facts where kind = ? and key = ?", self._kind, key)
        if not found and self._default is None:
            raise KeyError(key)
        return found[0][0] if found else self._default

    def __setitem__(self, key: str, value: Any) -> None:
        _run("insert or replace into facts values (?, ?, ?)", self._kind, key, value)

    def __delitem__(self, key: str) -> None:
        _run("delete from facts where kind = ? and key = ?", self._kind, key)

    def __iter__(self) -> Iterator[str]:
        return iter([row[0] for row in _run("select key from facts where kind = ?", self._kind)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __eq__(self, other: object) -> bool:
        return dict(self) == other

    __hash__ = None  # type: ignore[assignment]  # as of a dict


class Opened:
    """A gate that loaders wait for."""

    def set(self) -> None:
        """Let them go on."""
        _run("update counts set number = 1 where name = 'opened'")

    async def wait(self) -> None:
        """Wait for `set`."""
        while not _count("opened"):  # noqa: ASYNC110 - another process sets it
            await asyncio.sleep(0.02)


calls = Shared("calls", 0)
"""Calls of each key."""
mood = Shared("mood")
"""What the loader does for a key: ``fail``, ``hang``, ``refuse`` (once), ``wait`` (until `opened`)."""
opened = Opened()


def _count(name: str) -> int:
    return int(_run("select number from counts where name = ?", name)[0][0])


def __getattr__(name: str) -> int:
    if name in ("running", "most_running"):
        return _count(name)
    raise AttributeError(name)


def reset() -> None:
    """Forget all calls and moods; call it when a test begins."""
    with contextlib.closing(_database()) as connection:
        connection.executescript("delete from facts; update counts set number = 0;")


def _called(key: str) -> int:
    (row,) = _run(
        "insert into facts values ('calls', ?, 1) on conflict (kind, key) do update set value = value + 1 "
        "returning value",
        key,
    )
    return int(row[0])


def _runs(change: int) -> None:
    _run("update counts set number = number + ? where name = 'running'", change)
    _run(
        "update counts set number = max(number, (select number from counts where name = 'running')) "
        "where name = 'most_running'"
    )


async def greeting(refresh: Refresh) -> dict[str, object]:
    """Return a greeting with the name that the database has when the loader begins."""
    number = _called(refresh.key)
    _runs(+1)
    try:
        database = await refresh.pool.postgres()
        user = int(refresh.key.split(":")[1])
        name = await database.fetchval("select name from public.profiles where id = $1", user)
        await _behave(refresh.key)
        return {"greeting": f"Hello {name}", "call": number}
    finally:
        _runs(-1)


async def asked(refresh: Refresh) -> dict[str, object]:
    """Return the same as `greeting`, unless the name is that of the kept value."""
    database = await refresh.pool.postgres()
    user = int(refresh.key.split(":")[1])
    name = await database.fetchval("select name from public.profiles where id = $1", user)
    return {} if refresh.unchanged({"name": name}) else await greeting(refresh)


async def told(refresh: Refresh) -> dict[str, object]:
    """Return what a language model says about the name."""
    database = await refresh.pool.postgres()
    user = int(refresh.key.split(":")[1])
    name = await database.fetchval("select name from public.profiles where id = $1", user)
    if refresh.unchanged({"name": name}):
        return {}
    number = _called(refresh.key)
    model = await refresh.pool.openai()
    answer = await model.chat.completions.create(
        model="m", messages=[{"role": "user", "content": f"Greet {name}"}]
    )
    await _behave(refresh.key)
    return {"greeting": answer.choices[0].message.content, "call": number}


async def summary(refresh: Refresh) -> dict[str, object]:
    """Another value than `greeting` returns."""
    _called(refresh.key)
    return {"summary": refresh.key}


async def _behave(key: str) -> None:
    match mood.get(key):
        case "fail":
            raise ValueError("no idea what to say")
        case "hang":
            await asyncio.Event().wait()
        case "refuse":
            del mood[key]
            request = httpx2.Request("POST", "http://localhost/v1/chat/completions")
            response = httpx2.Response(429, headers={"retry-after-ms": "700"}, request=request)
            raise openai.RateLimitError("slow down", response=response, body=None)
        case "wait":
            await opened.wait()
        case _:
            await asyncio.sleep(0.02)


not_async = len


async def no_argument() -> None:
    """Cannot be called with a refresh."""

"""Records what loaders ask of a Supabase project over its REST API: tables, embedded tables, functions."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

import asyncpg
import httpx

from unstale.companion.recording.explain import explain_function, explain_table, sql
from unstale.companion.recording.reading import Equal, Reading, Table
from unstale.companion.recording.recorder import Recorder, loading
from unstale.runtime.postgres_url import PostgresUrl
from unstale.runtime.tls import postgres_tls
from unstale.settings import PoolSettings

_PATH = re.compile(r"/rest/v1/(rpc/)?([^/]+)$")
_EMBEDDED = re.compile(r"(?<![\w.])(?:\w+:)?(\w+)(?:![\w!]+)?\((?!\))")
_UNFILTERED = frozenset({"select", "order", "limit", "offset", "columns", "on_conflict", "and", "or"})
_ABSENT = "does not exist"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        target: The table, view or function.
        function: True if it is a function.
        embedded: Names of other tables, views or foreign keys whose rows are asked for, too.
        filters: Columns of the target that must equal a value, or one of several.
    """

    target: Table
    function: bool
    embedded: tuple[str, ...]
    filters: Mapping[str, object]

    @classmethod
    def of(cls, method: str, url: httpx.URL, headers: Mapping[str, str]) -> "Asked | None":
        """Read a request; None if it is not for the REST API."""
        match = _PATH.search(url.path)
        if match is None:
            return None
        profile = "accept-profile" if method in ("GET", "HEAD") else "content-profile"
        query = parse_qsl(url.query.decode())
        selected = next((value for name, value in query if name == "select"), "")
        return cls(
            Table(headers.get(profile, "public"), match[2]),
            match[1] is not None,
            tuple(dict.fromkeys(_EMBEDDED.findall(selected))),
            dict(_filters(query)),
        )

    def text(self, method: str) -> str:
        """Return the request without its values."""
        kind = "rpc/" if self.function else ""
        with_ = f" with {', '.join(self.embedded)}" if self.embedded else ""
        return f"{method} /rest/v1/{kind}{self.target.name}{with_} by {', '.join(self.filters) or 'nothing'}"


class RestRecorder:
    """An httpx event hook. `DATABASE_URL`, if it is set, tells what views and functions read.

    Args:
        recorder: Writes down what was asked.
        settings: The settings of the pool.
    """

    def __init__(self, recorder: Recorder, settings: PoolSettings) -> None:
        self._recorder, self._url = recorder, settings.database_url
        self._known: dict[tuple[Table, bool, tuple[str, ...]], Reading] = {}

    async def __call__(self, request: httpx.Request) -> None:
        """Record a request that is about to be sent, if a loader sends it."""
        keys = loading()
        asked = Asked.of(request.method, request.url, request.headers) if keys else None
        if asked is None:
            return
        identity = (asked.target, asked.function, asked.embedded)
        found = self._known.get(identity)
        if found is None:
            found = self._known[identity] = await self._resolve(asked)
        equal = tuple(
            Equal(asked.target, column, parameter=number)
            for number, column in enumerate(asked.filters, start=1)
        )
        reading = Reading(found.tables, (*equal, *found.equal), found.doubts)
        self._recorder.note(keys, asked.text(request.method), tuple(asked.filters.values()), reading)

    async def _resolve(self, asked: Asked) -> Reading:
        """Ask Postgres which tables the names stand for; without it, take them for tables."""
        if self._url is None:
            return _unresolved(asked, "set DATABASE_URL")
        dsn = PostgresUrl.parse(self._url.get_secret_value()).dsn
        try:
            connection = await asyncpg.connect(dsn, ssl=postgres_tls(dsn), statement_cache_size=0)
        except (asyncpg.PostgresError, OSError, ValueError) as error:
            return _unresolved(asked, f"DATABASE_URL cannot be used ({type(error).__name__})")
        try:
            readings = [
                await (explain_function if asked.function else explain_table)(connection, asked.target)
            ]
            for name in asked.embedded:
                reading = await explain_table(connection, Table(asked.target.schema, name))
                if any(_ABSENT in doubt for doubt in reading.doubts):  # a foreign key may be named instead
                    rows = await connection.fetch(
                        sql("foreign_keys"), asked.target.schema, asked.target.name, name
                    )
                    readings += [await explain_table(connection, Table(*row)) for row in rows]
                else:
                    readings.append(reading)
        finally:
            await connection.close()
        return Reading(
            {table: parts for each in readings for table, parts in each.tables.items()},
            tuple(equal for each in readings for equal in each.equal),
            tuple(doubt for each in readings for doubt in each.doubts),
        )


def _filters(query: list[tuple[str, str]]) -> Iterator[tuple[str, object]]:
    for name, value in query:
        if name in _UNFILTERED or "." in name:
            continue
        if value.startswith("eq."):
            yield name, value[3:]
        elif value.startswith("in.(") and value.endswith(")"):
            yield name, [each.strip('"') for each in value[4:-1].split(",")]


def _unresolved(asked: Asked, why: str) -> Reading:
    names = (asked.target.name, *asked.embedded)
    doubt = f"{', '.join(names)}: {why}, so that views, functions and foreign keys can be followed"
    if asked.function:
        return Reading(doubts=(doubt,))
    return Reading({Table(asked.target.schema, name): () for name in names}, doubts=(doubt,))

"""The REST API's tables: one request becomes one statement, run under the role of its key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from aiohttp import web

from unstale_worker.supabase_double.query_sql import Writer, condition, name
from unstale_worker.supabase_double.query_text import Column, Embed, Query, parts, read_query, read_select
from unstale_worker.supabase_double.relations import Relations
from unstale_worker.supabase_double.rest_errors import Failure
from unstale_worker.supabase_double.statements import statement

OBJECT = "application/vnd.pgrst.object+json"
METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class TableRequest:
    """One request, read."""

    method: str
    schema: str
    table: str
    items: tuple[Column | Embed, ...]
    query: Query
    prefer: Mapping[str, str]
    columns: tuple[str, ...]
    on_conflict: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    many: bool
    """True if the body was a list."""
    single: bool
    """True if one row is wanted, as an object."""

    @classmethod
    async def read(cls, request: web.Request, *, schema: str, max_rows: int) -> TableRequest:
        """Read a request; raises `Failure`."""
        if request.method not in METHODS:
            raise Failure(405, "PGRST117", f"Unsupported HTTP method: {request.method}")
        parameters = [(key, value) for key, value in request.query.items()]
        given = dict(parameters)
        query = read_query(parameters)
        if (match := re.fullmatch(r"(?:items=)?(\d+)-(\d*)", request.headers.get("Range", ""))) is not None:
            query.offset = int(match[1]) if query.offset is None else query.offset
            if match[2] and query.limit is None:
                query.limit = int(match[2]) - int(match[1]) + 1
        if request.method in ("GET", "HEAD"):
            query.limit = max_rows if query.limit is None else min(query.limit, max_rows)
        body = await _body(request) if request.method in ("POST", "PATCH") else []
        return cls(
            request.method, schema, request.match_info["table"], read_select(given.get("select", "")), query,
            dict(part.strip().partition("=")[::2] for part in request.headers.get("Prefer", "").split(",")),
            tuple(part.strip('"') for part in parts(given.get("columns", ""))),
            tuple(part.strip('"') for part in parts(given.get("on_conflict", ""))),
            body if isinstance(body, list) else [body], isinstance(body, list),
            OBJECT in request.headers.get("Accept", ""),
        )  # fmt: skip

    @property
    def returns(self) -> bool:
        """True if the answer contains rows."""
        return self.method in ("GET", "HEAD") or self.prefer.get("return") == "representation"

    @property
    def writes(self) -> bool:
        """True for a request that changes rows."""
        return self.method not in ("GET", "HEAD")


@dataclass(slots=True)
class TableAnswer:
    """Rows as JSON, and how many there are."""

    rows: list[str] = field(default_factory=list)
    total: int | None = None

    def response(self, request: TableRequest) -> web.Response:
        """Return the response; raises `Failure` if not one row was found where one is wanted."""
        if request.single and request.returns and len(self.rows) != 1:
            raise _not_one(len(self.rows))
        first = request.query.offset or 0
        shown = f"{first}-{first + len(self.rows) - 1}" if self.rows else "*"
        headers = {"Content-Range": f"{shown}/{'*' if self.total is None else self.total}"}
        if not request.returns:
            return web.Response(status=201 if request.method == "POST" else 204, headers=headers)
        body = self.rows[0] if request.single else f"[{', '.join(self.rows)}]"
        status = 201 if request.method == "POST" else 200
        if not request.writes and self.total is not None and len(self.rows) < self.total:
            status = 206
        return web.Response(
            status=status, headers=headers, text="" if request.method == "HEAD" else body,
            content_type=OBJECT if request.single else "application/json",
        )  # fmt: skip


async def answer(connection: Any, request: TableRequest) -> TableAnswer:
    """Run a request in the current transaction, whose role is set; raises `Failure` and asyncpg's errors."""
    columns = await connection.fetch(statement("table_columns"), request.schema, request.table)
    if not columns:
        raise Failure(
            404,
            "PGRST205",
            f"Could not find the table '{request.schema}.{request.table}' in the schema cache",
        )
    embeds = request.returns and any(isinstance(item, Embed) for item in request.items)
    writer = Writer(await Relations.fetch(connection) if embeds else Relations([]))
    if not request.writes:
        return await _read(connection, request, writer)
    if request.method != "POST" and not request.query.filters:
        verb = "UPDATE" if request.method == "PATCH" else "DELETE"
        raise Failure(400, "21000", f"{verb} requires a WHERE clause")
    if request.method == "POST":
        return await _insert(connection, request, writer, [row["name"] for row in columns if row["is_key"]])
    return await _change(connection, request, writer)


def only_row(rows: Sequence[Any]) -> str:
    """Return the only row of a function's as JSON; raises `Failure` if there is not exactly one."""
    if len(rows) != 1:
        raise _not_one(len(rows))
    return json.dumps(rows[0])


def _not_one(number: int) -> Failure:
    message = "Cannot coerce the result to a single JSON object"
    return Failure(406, "PGRST116", message, details=f"The result contains {number} rows")


async def _body(request: web.Request) -> Any:
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise Failure(400, "PGRST102", "Empty or invalid json") from None
    rows = body if isinstance(body, list) else [body]
    if not all(isinstance(row, dict) for row in rows):
        raise Failure(400, "PGRST102", "Empty or invalid json")
    return body


def _source(request: TableRequest) -> str:
    return f"{name(request.schema)}.{name(request.table)}"


async def _read(connection: Any, request: TableRequest, writer: Writer) -> TableAnswer:
    query, place, found = request.query, (request.schema, request.table), TableAnswer()
    if "count" in request.prefer:
        everything = Query(query.filters, embeds=query.embeds)
        inside = writer.rows(_source(request), writer.alias(), place, request.items, everything)
        found.total = await connection.fetchval(" ".join(["select count(*) from (", inside, ") as r"]))
    inside = writer.rows(_source(request), writer.alias(), place, request.items, query)
    text = " ".join(["select row_to_json(r)::text from (", inside, ") as r"])
    found.rows = [row[0] for row in await connection.fetch(text)]
    return found


async def _insert(connection: Any, request: TableRequest, writer: Writer, key: Sequence[str]) -> TableAnswer:
    found = TableAnswer()
    default = request.prefer.get("missing") == "default"
    if not default and not request.columns and len({frozenset(row) for row in request.rows}) > 1:
        raise Failure(400, "PGRST102", "All object keys must match")
    for names, group in groupby(request.rows, key=_names):
        kept = tuple(each for each in names if each in request.columns) if request.columns else names
        if request.columns and not default:
            kept = request.columns
        lines = ["insert into", _source(request)]
        if kept:
            listed = ", ".join(map(name, kept))
            lines += [
                "(",
                listed,
                ") select",
                listed,
                "from json_populate_recordset(null::",
                _source(request),
            ]
            lines += [", $1::json)"]
        else:
            lines += ["default values"]
        lines += _on_conflict(request, kept, key)
        arguments = [json.dumps(list(group))] if kept else []
        found.rows += await _changed(connection, request, writer, lines, "*", arguments)
    found.total = len(found.rows) if "count" in request.prefer else None
    return found


def _names(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row)


def _on_conflict(request: TableRequest, columns: Sequence[str], key: Sequence[str]) -> list[str]:
    resolution = request.prefer.get("resolution")
    if resolution is None:
        return []
    target = ", ".join(map(name, request.on_conflict or key))
    lines = ["on conflict", f"({target})" if target else ""]
    if resolution == "ignore-duplicates" or not columns or not target:
        return [*lines, "do nothing"]
    return [*lines, "do update set", ", ".join(f"{name(each)} = excluded.{name(each)}" for each in columns)]


async def _change(connection: Any, request: TableRequest, writer: Writer) -> TableAnswer:
    alias, arguments = writer.alias(), list[str]()
    where = ["where", " and ".join(condition(alias, each) for each in request.query.filters)]
    if request.method == "DELETE":
        lines = ["delete from", _source(request), "as", alias]
    elif not request.rows or not request.rows[0]:
        return TableAnswer()
    else:
        pairs = ", ".join(f"{name(each)} = body.{name(each)}" for each in request.rows[0])
        lines = ["update", _source(request), "as", alias, "set", pairs, "from json_populate_record(null::"]
        lines += [_source(request), ", $1::json) as body"]
        arguments = [json.dumps(request.rows[0])]
    found = TableAnswer()
    found.rows = await _changed(connection, request, writer, [*lines, *where], f"{alias}.*", arguments)
    found.total = len(found.rows) if "count" in request.prefer else None
    return found


async def _changed(
    connection: Any,
    request: TableRequest,
    writer: Writer,
    lines: Sequence[str],
    returned: str,
    arguments: list[str],
) -> list[str]:
    """Run a statement that writes; return its rows as JSON, or nothing where they are not wanted."""
    if not request.returns and "count" not in request.prefer:
        await connection.execute(" ".join(lines), *arguments)
        return []
    if not request.returns:
        return [row[0] for row in await connection.fetch(" ".join([*lines, "returning 'x'"]), *arguments)]
    query = Query(embeds=request.query.embeds, order=request.query.order)
    inside = writer.rows("changed", writer.alias(), (request.schema, request.table), request.items, query)
    head = [
        "with changed as (",
        *lines,
        "returning",
        returned,
        ") select row_to_json(r)::text from (",
        inside,
    ]
    return [row[0] for row in await connection.fetch(" ".join([*head, ") as r"]), *arguments)]

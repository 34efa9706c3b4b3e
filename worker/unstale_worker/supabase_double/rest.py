"""The REST API: tables and functions, under the role of the request's key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiohttp import web

from unstale_worker.supabase_double import rest_tables
from unstale_worker.supabase_double.keys import Claims, Keys, Refused
from unstale_worker.supabase_double.rest_errors import Failure, as_failure
from unstale_worker.supabase_double.rest_functions import MOST_ROWS, Functions
from unstale_worker.supabase_double.statements import statement

TIMEOUTS = {"anon": "3s", "authenticated": "8s"}
"""Roles with a timeout of their own; the others have the login's."""
LOGIN_SETTINGS = {"statement_timeout": "8s", "lock_timeout": "8s", "application_name": "postgrest"}


@dataclass(slots=True)
class RestFaults:
    """Faults of requests, for tests; change the fields at run time."""

    status: int | None = None
    """Answers everything, as a gateway in trouble does."""
    garbage: bool = False
    """Does the work, and answers 200 without JSON."""
    lose_answers: int = 0
    """So many of the next requests are done, and cut off instead of answered."""
    refuse: bool = False
    """Cuts every request off before anything is done."""
    delay: float = 0.0
    """Seconds until a request is begun."""


@dataclass(slots=True)
class Request:
    """One that came: for tests that ask what was sent, and how."""

    method: str
    function: str
    role: str
    arguments: dict[str, Any] = field(repr=False)


class Rest:
    """One project's REST API.

    Args:
        dsn: Of the login ``authenticator``; None: there is no database, and every call fails.
        schemas: Schemas that are exposed; the first is the default.
        max_rows: Most rows of one answer.
        gets: Let functions be called by GET; else only a replica answers it.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        dsn: str | None,
        schemas: Sequence[str] = ("public",),
        max_rows: int = MOST_ROWS,
        gets: bool = False,
    ) -> None:
        self._schemas, self._max_rows, self._gets = tuple(schemas), max_rows, gets
        self.keys, self.faults = keys, RestFaults()
        self.timeout: str | None = None
        """A statement timeout instead of the roles' own, as ``"200ms"``."""
        self.requests: list[Request] = []
        self._dsn = dsn
        self._functions = Functions(max_rows=max_rows)
        self._pool: asyncpg.Pool | None = None
        self._replica: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Let requests wait, before anything is done, until `release`."""
        self._open.clear()

    def release(self) -> None:
        """End `hold`."""
        self._open.set()

    async def table(self, request: web.Request) -> web.StreamResponse:
        """``/rest/v1/{table}``: read, insert, update or delete rows."""
        try:
            if (faulty := await self._faulty(request)) is not None:
                return faulty
            claims = self._authorized(request)
            schema = self._schema(request)
            asked = await rest_tables.TableRequest.read(request, schema=schema, max_rows=self._max_rows)
            return await self._in_table(asked, claims)
        except Failure as failure:
            return web.json_response(failure.body, status=failure.status)

    async def _in_table(self, asked: rest_tables.TableRequest, claims: Claims) -> web.StreamResponse:
        timeout = self.timeout or TIMEOUTS.get(claims.role, LOGIN_SETTINGS["statement_timeout"])
        pool = await self._connected()
        try:
            async with (
                pool.acquire(timeout=10) as connection,
                connection.transaction(readonly=not asked.writes),
            ):
                await connection.fetch(statement("request"), claims.role, json.dumps(claims.claims), timeout)
                found = await rest_tables.answer(connection, asked)
                return found.response(asked)  # a refusal here undoes what was written
        except Exception as error:
            failure = as_failure(error, anonymous=claims.role == "anon")
            if failure.body.get("code") == "42501" and not failure.body.get("hint"):
                failure.body["hint"] = (
                    f"{claims.role} lacks a grant or a policy; new tables are granted to nobody: "
                    f"grant select, insert, update, delete on {asked.schema}.{asked.table} to {claims.role}"
                )
            raise failure from error

    async def _faulty(self, request: web.Request) -> web.StreamResponse | None:
        """Return the answer of a fault that is set."""
        await self._open.wait()
        await asyncio.sleep(self.faults.delay)
        if self.faults.refuse:
            return _cut(request)
        if self.faults.status is not None:
            return web.json_response({"message": "unavailable"}, status=self.faults.status)
        return None

    def _schema(self, request: web.Request) -> str:
        reading = request.method in ("GET", "HEAD")
        schema = request.headers.get("Accept-Profile" if reading else "Content-Profile") or self._schemas[0]
        if schema not in self._schemas:
            hint = f"Only {', '.join(self._schemas)} {'is' if len(self._schemas) == 1 else 'are'} exposed"
            raise Failure(406, "PGRST106", f"Invalid schema: {schema}", hint=hint)
        return schema

    async def rpc(self, request: web.Request) -> web.StreamResponse:
        """``/rest/v1/rpc/{function}``: call a function."""
        try:
            if (faulty := await self._faulty(request)) is not None:
                return faulty
            claims = self._authorized(request)
            body = await self._answer(request, claims)
            if rest_tables.OBJECT in request.headers.get("Accept", "") and (body or "").startswith("["):
                body = rest_tables.only_row(json.loads(body or "[]"))
        except Failure as failure:
            return web.json_response(failure.body, status=failure.status)
        if self.faults.lose_answers > 0:
            self.faults.lose_answers -= 1
            return _cut(request)
        if self.faults.garbage:
            return web.Response(text="<html>ok</html>", content_type="text/html")
        if body is None:
            return web.Response(status=204)
        return web.Response(text=body, content_type="application/json")

    async def root(self, request: web.Request) -> web.StreamResponse:
        """``/rest/v1/``: for health checks."""
        try:
            self._authorized(request)
        except Failure as failure:
            return web.json_response(failure.body, status=failure.status)
        return web.json_response({"swagger": "2.0"})

    async def freeze_replica(self) -> None:
        """From now on a GET is answered by a replica that does not replay what comes after this moment."""
        await self._thaw()
        replica = await asyncpg.connect(self._dsn)
        await replica.transaction(isolation="repeatable_read", readonly=True).start()
        await replica.execute("select")  # which takes the snapshot
        self._replica = replica

    async def close(self) -> None:
        await self._thaw()
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), timeout=2)
            except (TimeoutError, OSError, asyncpg.PostgresError):
                pool.terminate()

    def _authorized(self, request: web.Request) -> Claims:
        key = request.headers.get("apikey") or request.query.get("apikey")
        if not key:
            raise Failure(401, None, "No API key found in request")
        try:
            self.keys.claims(key)
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            return self.keys.claims(token if scheme.lower() == "bearer" and token else key)
        except Refused as error:
            if str(error).startswith("Token has expired"):
                raise Failure(401, "PGRST303", "JWT expired") from None
            raise Failure(
                401,
                None,
                "Invalid API key",
                hint="Double check your Supabase `anon` or `service_role` API key.",
            ) from None

    async def _answer(self, request: web.Request, claims: Claims) -> str | None:
        reading = request.method in ("GET", "HEAD")
        if reading:
            arguments: Any = {k: v for k, v in request.query.items() if k != "apikey"}
        elif request.method == "POST":
            try:
                arguments = json.loads(await request.read() or b"{}")
            except ValueError:
                raise Failure(400, "PGRST102", "Empty or invalid json") from None
        else:
            raise Failure(405, "PGRST101", f"Cannot use the {request.method} method on RPC")
        name = request.match_info["function"]
        self.requests.append(Request(request.method, name, claims.role, arguments))
        schema = self._schema(request)
        if not reading and set(request.query) - {"apikey", "columns"}:
            raise Failure(
                400, "PGRST100", "unstale dev does not select from, filter or order a function's rows"
            )
        if reading and self._replica is None and not self._gets:
            raise Failure(405, "DOUBLE", "a GET may be answered by a replica that is behind: use POST")
        try:
            if reading and self._replica is not None:
                async with self._lock, self._replica.transaction():  # a savepoint in the frozen snapshot
                    return await self._call(self._replica, schema, name, arguments, claims, frozen=True)
            pool = await self._connected()
            async with pool.acquire(timeout=10) as connection:
                return await self._call(
                    connection, schema, name, arguments, claims, frozen=False, reading=reading
                )
        except Exception as error:
            self._functions.forget()  # one may have been dropped or changed
            raise as_failure(error, anonymous=claims.role == "anon") from error

    async def _call(
        self,
        connection: Any,
        schema: str,
        name: str,
        arguments: Any,
        claims: Claims,
        *,
        frozen: bool,
        reading: bool = False,
    ) -> str | None:
        if self._gets:  # migrations come while it runs
            self._functions.forget()
        call = await self._functions.prepared(connection, schema, name, arguments)
        timeout = self.timeout or TIMEOUTS.get(claims.role, LOGIN_SETTINGS["statement_timeout"])
        async with connection.transaction(readonly=(reading or not call.volatile) and not frozen):
            await connection.fetch(statement("request"), claims.role, json.dumps(claims.claims), timeout)
            parameters = [json.dumps(arguments)] if "$1" in call.text else []
            answer = await connection.fetchval(call.text, *parameters)
        return None if call.void else (answer if answer is not None else "null")

    async def _connected(self) -> asyncpg.Pool:
        if self._dsn is None:
            raise Failure(503, "PGRST000", "Could not connect with the database")
        async with self._lock:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._dsn, min_size=0, max_size=10, server_settings=LOGIN_SETTINGS, timeout=5
                )
            return self._pool

    async def _thaw(self) -> None:
        replica, self._replica = self._replica, None
        if replica is not None:
            await replica.close()


def _cut(request: web.Request) -> web.StreamResponse:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()

"""The REST API's functions: ``POST /rest/v1/rpc/{function}`` runs the real function under the real role."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiohttp import web

from supabase_double.keys import Claims, Keys, Refused
from supabase_double.rest_errors import Failure, as_failure
from supabase_double.safeupdate import refusal
from supabase_double.statements import statement

MOST_ROWS = 1_000
"""Of a set; what is more is cut off without a word."""
TIMEOUTS = {"anon": "3s", "authenticated": "8s"}
"""Roles with a timeout of their own; the others have the login's."""
LOGIN_SETTINGS = {"statement_timeout": "8s", "lock_timeout": "8s", "application_name": "postgrest"}


@dataclass(slots=True)
class RestFaults:
    """What goes wrong with requests while it is set; change the fields at run time."""

    status: int | None = None
    """Answers everything, as a gateway in trouble does."""
    garbage: bool = False
    """Does the work, and answers 200 with what is no JSON."""
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


@dataclass(frozen=True, slots=True)
class _Call:
    text: str
    volatile: bool
    void: bool


class Rest:
    """One project's REST API.

    Args:
        dsn: Of the login ``authenticator``; None: there is no database, and every call fails.
    """

    def __init__(self, keys: Keys, *, dsn: str | None) -> None:
        self.keys, self.faults = keys, RestFaults()
        self.timeout: str | None = None
        """A statement timeout instead of the roles' own, as ``"200ms"``."""
        self.requests: list[Request] = []
        self._dsn = dsn
        self._calls: dict[tuple[str, str, frozenset[str]], _Call] = {}
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

    async def rpc(self, request: web.Request) -> web.StreamResponse:
        """Any method: GET is refused, unless a replica answers it."""
        try:
            await self._open.wait()
            await asyncio.sleep(self.faults.delay)
            if self.faults.refuse:
                return _cut(request)
            if self.faults.status is not None:
                return web.json_response({"message": "unavailable"}, status=self.faults.status)
            claims = self._authorized(request)
            body = await self._answer(request, claims)
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
        schema = request.headers.get("Accept-Profile" if reading else "Content-Profile") or "public"
        self.requests.append(Request(request.method, name, claims.role, arguments))
        if schema != "public":
            raise Failure(406, "PGRST106", f"Invalid schema: {schema}", hint="Only public is exposed")
        if reading and self._replica is None:
            raise Failure(405, "DOUBLE", "a GET may be answered by a replica that is behind: use POST")
        try:
            if reading:
                assert self._replica is not None
                async with self._lock, self._replica.transaction():  # a savepoint in the frozen snapshot
                    return await self._call(self._replica, schema, name, arguments, claims, frozen=True)
            pool = await self._connected()
            async with pool.acquire(timeout=10) as connection:
                return await self._call(connection, schema, name, arguments, claims, frozen=False)
        except Exception as error:
            self._calls.clear()  # where a function was dropped or changed, look again
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
    ) -> str | None:
        call = await self._prepared(connection, schema, name, arguments)
        timeout = self.timeout or TIMEOUTS.get(claims.role, LOGIN_SETTINGS["statement_timeout"])
        async with connection.transaction(readonly=not call.volatile and not frozen):
            await connection.fetch(statement("request"), claims.role, json.dumps(claims.claims), timeout)
            parameters = [json.dumps(arguments)] if "$1" in call.text else []
            answer = await connection.fetchval(call.text, *parameters)
        return None if call.void else (answer if answer is not None else "null")

    async def _prepared(self, connection: Any, schema: str, name: str, arguments: Any) -> _Call:
        """The statement; remembered, as PostgREST remembers the schema."""
        given = frozenset(arguments) if isinstance(arguments, dict) else frozenset()
        if (known := self._calls.get((schema, name, given))) is not None:
            return known
        function, whole = await self._resolve(connection, schema, name, arguments)
        bodies = {row["name"]: row["source"] for row in await connection.fetch(statement("called"))}
        if (sentence := refusal(f"{schema}.{name}", bodies)) is not None:
            raise Failure(400, "21000", sentence)
        types = dict(zip(function["arguments"], function["types"], strict=True))
        if whole:
            text = await connection.fetchval(statement("call_whole"), schema, name, function["types"][0])
        else:
            passed = [argument for argument in function["arguments"] if argument in arguments]
            text = await connection.fetchval(
                statement("call"),
                schema,
                name,
                passed,
                [types[argument] for argument in passed],
                function["is_set"],
                function["is_composite"],
                MOST_ROWS,
            )
        call = _Call(text, volatile=function["volatile"], void=function["is_void"])
        self._calls[schema, name, given] = call
        return call

    async def _resolve(
        self, connection: Any, schema: str, name: str, arguments: Any
    ) -> tuple[asyncpg.Record, bool]:
        """The function meant, and whether it takes the whole body."""
        candidates = await connection.fetch(statement("functions"), schema, name)
        given = set(arguments) if isinstance(arguments, dict) else set()
        found = []
        for candidate in candidates:
            names = candidate["arguments"]
            required = names[: len(names) - candidate["optional"]]
            if isinstance(arguments, dict) and set(required) <= given <= set(names):
                found.append((candidate, False))
            elif names == [""] and candidate["types"][0] in ("json", "jsonb"):
                found.append((candidate, True))
        if len(found) == 1:
            return found[0]
        listed = f"{schema}.{name}({', '.join(sorted(given))})" if given else f"{schema}.{name}"
        if found:
            raise Failure(300, "PGRST203", f"Could not choose the best candidate function between: {listed}")
        without = "" if given else " without parameters"
        raise Failure(
            404,
            "PGRST202",
            f"Could not find the function {listed}{without} in the schema cache",
            details=f"Searched for the function {listed}, but no matches were found in the schema cache.",
        )

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

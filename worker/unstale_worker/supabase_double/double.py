"""One loopback server that is a Supabase project: Realtime and REST under one base URL."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Protocol, Self

from aiohttp import web
from aiohttp.typedefs import Handler

from unstale_worker.supabase_double.keys import Keys
from unstale_worker.supabase_double.realtime import Realtime
from unstale_worker.supabase_double.rest import Rest
from unstale_worker.supabase_double.rest_functions import MOST_ROWS

POLL_SECONDS = 0.1
"""Between two looks at the WAL, as at the service."""


class Server(Protocol):
    """The Postgres server of a test database."""

    def dsn(self, *, user: str, database: str) -> str:
        """Return the URL of a login on one of its databases."""
        ...


class ProjectDatabase(Protocol):
    """The attributes of a test database that the double reads."""

    @property
    def name(self) -> str: ...

    @property
    def superuser_dsn(self) -> str: ...

    @property
    def server(self) -> Server: ...


class SupabaseDouble:
    """A project over a database of the test's; without one, changes come from `Realtime.change` alone.

        async with SupabaseDouble(database) as project:
            client = await create_async_client(project.url, project.keys.secret)

    Faults: ``project.realtime.faults`` and ``project.rest.faults`` while they are set, methods of
    ``project.realtime`` for what happens once, `outage` and `back` for all of it at once. With `tls` it
    speaks HTTPS, as a project does. With `platform` the database has Supabase's schemas: broadcasts from the
    database are delivered, and functions may be called by GET.
    """

    def __init__(
        self,
        database: ProjectDatabase | None = None,
        *,
        poll: float = POLL_SECONDS,
        tls: ssl.SSLContext | None = None,
        keys: Keys | None = None,
        port: int = 0,
        schemas: Sequence[str] = ("public",),
        max_rows: int = MOST_ROWS,
        platform: bool = False,
    ) -> None:
        superuser = rest = None
        if database is not None:
            superuser = database.superuser_dsn
            rest = database.server.dsn(user="authenticator", database=database.name)
        self.keys = keys or Keys()
        self.realtime = Realtime(self.keys, dsn=superuser, poll=poll, messages=platform)
        self.rest = Rest(self.keys, dsn=rest, schemas=schemas, max_rows=max_rows, gets=platform)
        self.port = port
        self._tls = tls
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The base URL, ``SUPABASE_URL``."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=8 * 1024 * 1024, middlewares=[_for_browsers])
        app.router.add_get("/realtime/v1/websocket", self.realtime.websocket)
        app.router.add_post("/realtime/v1/api/broadcast/{topic}/events/{event}", self.realtime.http_broadcast)
        app.router.add_route("*", "/rest/v1/rpc/{function}", self.rest.rpc)
        app.router.add_get("/rest/v1/", self.rest.root)
        app.router.add_route("*", "/rest/v1/{table}", self.rest.table)
        app.router.add_route("*", "/{service}/v1/{rest:.*}", _missing)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handle_signals=False)
        await self._runner.setup()
        await self.back()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.rest.release()
        await self.realtime.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.rest.close()

    async def outage(self) -> None:
        """Listen no more and cut every websocket; requests under way are still answered."""
        assert self._runner is not None
        for site in tuple(self._runner.sites):
            await site.stop()
        self.realtime.reset()

    async def back(self) -> None:
        """Listen again, on the same port."""
        assert self._runner is not None
        if not self._runner.sites:
            site = web.TCPSite(
                self._runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self._tls
            )
            await site.start()
            self.port = int(self._runner.addresses[0][1])


@web.middleware
async def _for_browsers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let scripts of any page use the API, as the gateway does; each request needs a key."""
    if request.method == "OPTIONS":
        response: web.StreamResponse = web.Response(status=200)
    else:
        response = await handler(request)
    if not response.prepared:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Allow-Methods"] = "*"
        response.headers["Access-Control-Allow-Headers"] = request.headers.get(
            "Access-Control-Request-Headers", "*"
        )
        response.headers["Access-Control-Expose-Headers"] = "Content-Range"
    return response


async def _missing(request: web.Request) -> web.StreamResponse:
    message = f"there is no {request.match_info['service']} service here, only REST and Realtime"
    return web.json_response({"message": message, "msg": message, "error": "not_implemented"}, status=501)

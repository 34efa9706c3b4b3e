"""One loopback server that is a Supabase project: Realtime and REST under one base URL."""

from __future__ import annotations

import ssl
from typing import Protocol, Self

from aiohttp import web

from supabase_double.keys import Keys
from supabase_double.realtime import Realtime
from supabase_double.rest import Rest

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
    speaks HTTPS, as a project does.
    """

    def __init__(
        self,
        database: ProjectDatabase | None = None,
        *,
        poll: float = POLL_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        superuser = rest = None
        if database is not None:
            superuser = database.superuser_dsn
            rest = database.server.dsn(user="authenticator", database=database.name)
        self.keys = Keys()
        self.realtime = Realtime(self.keys, dsn=superuser, poll=poll)
        self.rest = Rest(self.keys, dsn=rest)
        self.port = 0
        self._tls = tls
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The base URL, ``SUPABASE_URL``."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_get("/realtime/v1/websocket", self.realtime.websocket)
        app.router.add_post("/realtime/v1/api/broadcast/{topic}/events/{event}", self.realtime.http_broadcast)
        app.router.add_route("*", "/rest/v1/rpc/{function}", self.rest.rpc)
        app.router.add_get("/rest/v1/", self.rest.root)
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

"""Bounds what a client of the HTTP server can hold, and refuses requests that a browser was tricked into.

aiohttp waits for ever for the rest of a header. Without a bound, clients that say nothing use up the process'
file descriptors, and then it reaches neither Redis nor Postgres.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

CONNECTIONS_MOST: Final = 64
"""Connections at the same time. One more ends the one that has been silent for longest."""
STREAMS_MOST: Final = 16
"""Connections among them that may wait for news at the same time."""
SILENT_SECONDS: Final = 10.0
"""Seconds that a connection has for its next request, from its first byte to the answer's last."""

TOO_MANY: Final = f"{STREAMS_MOST} pages are open already; close one\n"
ANOTHER_HOST: Final = (
    "only requests for localhost are answered here; set UNSTALE_HTTP_TOKEN to ask by another name\n"
)


class _Guarded(asyncio.Protocol):
    """One connection; passes everything on to aiohttp."""

    def __init__(self, guard: "Guard", inner: asyncio.Protocol) -> None:
        self._guard, self._inner = guard, inner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(transport)
        self._guard.opened(self._inner, self)

    def answered(self) -> None:
        """Wait for the next request from now on."""
        self.forget()
        self._timer = asyncio.get_running_loop().call_later(self._guard.silent_seconds, self.end)

    def end(self) -> None:
        """Close the connection, whatever it still has to send."""
        if self._transport is not None:
            self._transport.abort()

    def forget(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.closed(self._inner)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class Guard:
    """The connections of one server.

    Example:
        >>> guard = Guard()
        >>> app = web.Application(middlewares=[guard.middleware])
        >>> server = await loop.create_server(guard.protocols(runner.server), host, port)
    """

    def __init__(self, *, most: int = CONNECTIONS_MOST, silent_seconds: float = SILENT_SECONDS) -> None:
        self._most, self.silent_seconds = most, silent_seconds
        self._connections: dict[asyncio.Protocol, _Guarded] = {}
        self._streams = 0

    def __len__(self) -> int:
        return len(self._connections)

    def protocols(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return the factory of a server's connections, from aiohttp's own."""
        return lambda: _Guarded(self, make())

    def opened(self, inner: asyncio.Protocol, connection: _Guarded) -> None:
        """Count a connection in."""
        if len(self._connections) >= self._most:
            next(iter(self._connections.values())).end()
        self._connections[inner] = connection
        connection.answered()

    def closed(self, inner: asyncio.Protocol) -> None:
        """Count a connection out."""
        connection = self._connections.pop(inner, None)
        if connection is not None:
            connection.forget()

    @contextmanager
    def stream(self, request: web.Request) -> Iterator[Callable[[], None]]:
        """Let an answer go on inside the body; yields a function to call after each part that was sent.

        A client that stops reading is ended like any other that is silent. Raises
        `web.HTTPServiceUnavailable` for one stream too many.
        """
        if self._streams >= STREAMS_MOST:
            raise web.HTTPServiceUnavailable(text=TOO_MANY, headers={"Retry-After": "10"})
        self._streams += 1
        try:
            yield lambda: self._heard_of(request.protocol)
        finally:
            self._streams -= 1

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note that a whole request has come: its connection is now the one heard of last."""
        self._heard_of(request.protocol)
        return await handler(request)

    def _heard_of(self, protocol: asyncio.Protocol) -> None:
        connection = self._connections.pop(protocol, None)
        if connection is not None:
            self._connections[protocol] = connection
            connection.answered()


def own_hosts_only() -> Middleware:
    """Refuse requests for another host's name, for a server on loopback that asks for no token.

    A web page may lead its own name to 127.0.0.1 and then read what is served there (DNS rebinding).
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        for host in request.headers.getall("Host", []):
            if not _is_loopback(host):
                return web.Response(status=421, text=ANOTHER_HOST)
        return await handler(request)

    return check


def _is_loopback(host: str) -> bool:
    """Return True for ``localhost``, ``127.0.0.1:8787``, ``[::1]`` and the like."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

"""A proxy that hides a failover, as those in front of rented servers do.

Clients keep their connections. The proxy connects each of them to the new server, signs in and subscribes
again there. What was published meanwhile is lost, and no client is told.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from servers import eventually
from servers.proxy import CHUNK

QUIET = 0.2
"""Seconds without an answer after which none is on its way: requests are held back by then."""
SUBSCRIBE = re.compile(rb"\r\nSUBSCRIBE\r\n\$\d+\r\n([^\r]+)\r\n", re.IGNORECASE)


@dataclass(eq=False)
class _Link:
    answers: asyncio.StreamReader
    requests: asyncio.StreamWriter
    client: asyncio.StreamWriter
    channel: bytes = b""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class HidingProxy:
    """Forward to ``port`` until `switch`.

    async with HidingProxy(primary.port, primary.restricted_url) as proxy:
        await proxy.switch(replica.port)
    """

    def __init__(self, port: int, url: str) -> None:
        self.target, self._url = port, urlsplit(url)
        self.accepted = 0
        """Connections accepted so far."""
        self._links: list[_Link] = []
        self._open = asyncio.Event()
        self._open.set()
        self._heard_at = 0.0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in self._links:
            link.client.transport.abort()
            link.requests.transport.abort()
            for task in link.tasks:
                task.cancel()
            await asyncio.gather(*link.tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The server's URL with this proxy's port."""
        login = self._url.netloc.rpartition("@")[0]
        return self._url._replace(netloc=f"{login}@127.0.0.1:{self.port}").geturl()

    async def hold(self) -> None:
        """Hold requests back, and wait until every answer has arrived."""
        self._open.clear()
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        await eventually(lambda: loop.time() > self._heard_at + QUIET)

    async def switch(self, port: int) -> None:
        """Connect every client to the server at ``port``, and let requests through again."""
        if self._open.is_set():
            await self.hold()
        self.target = port
        for link in self._links:
            link.tasks[1].cancel()
            link.requests.transport.abort()
            if link.client.is_closing():
                continue
            link.answers, link.requests = await asyncio.open_connection("127.0.0.1", port)
            user, password = unquote(self._url.username or "default"), unquote(self._url.password or "")
            await self._again(link, f"AUTH {user} {password}".encode())
            if link.channel:
                await self._again(link, b"SUBSCRIBE " + link.channel, lines=6)
            link.tasks[1] = asyncio.create_task(self._answer(link))
        self._open.set()

    async def _again(self, link: _Link, command: bytes, *, lines: int = 1) -> None:
        """Send an inline command, and swallow its reply."""
        link.requests.write(command + b"\r\n")
        for _ in range(lines):
            line = await link.answers.readline()
            assert not line.startswith(b"-"), line

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await self._open.wait()
        answers, requests = await asyncio.open_connection("127.0.0.1", self.target)
        link = _Link(answers, requests, writer)
        link.tasks = [
            asyncio.create_task(self._request(reader, link)),
            asyncio.create_task(self._answer(link)),
        ]
        self._links.append(link)

    async def _request(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if found := SUBSCRIBE.search(data):
                    link.channel = found[1]
                await self._open.wait()
                link.requests.write(data)
        link.client.transport.abort()
        link.requests.transport.abort()

    async def _answer(self, link: _Link) -> None:
        with suppress(OSError):
            while data := await link.answers.read(CHUNK):
                self._heard_at = asyncio.get_running_loop().time()
                link.client.write(data)
            link.client.transport.abort()

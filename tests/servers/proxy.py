"""A TCP proxy between a test and a real server. The test switches its faults while it runs.

Faults act on open and on new connections, until `heal`:

==============  ==============================================================================
``refuse``      stops listening on the port (open connections stay)
``cut``         ends the open connections, once
``hold``        keeps everything back in both directions; `heal` lets it through
``half_open``   accepts and swallows: the sender waits for ever and sees no error
``slow``        delays each piece in both directions
``lose_answer`` forwards the next matching request, lets the server do it, swallows the answer
                and ends that connection: *did the work, lost the answer*
==============  ==============================================================================
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

CHUNK = 1 << 16


class _Link:
    """A client's connection, and the proxy's connection to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.loses_answer = False
        self.swallows = False

    def abort(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Listen on a loopback port and forward to `port`. Change ``target`` to send new connections elsewhere.

    async with Proxy(valkey.port) as proxy:
        cache = Cache.from_env(redis_url=proxy.url(valkey.url))
        proxy.half_open()
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self.accepted = 0
        """Connections accepted so far."""
        self.lost = asyncio.Event()
        """Set when an answer was swallowed."""
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._swallows = False
        self._delay = 0.0
        self._losing: bytes | None = None

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self._open.set()
        self.cut()
        if self._tasks:  # cut connections end by themselves; cancelled ones are logged as errors
            await asyncio.wait(tuple(self._tasks), timeout=1.0)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url(self, url: str) -> str:
        """Return the server's URL with this proxy's port."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}"))

    def __repr__(self) -> str:
        faults = {
            "refuses": self._server is None,
            "holds": not self._open.is_set(),
            "swallows": self._swallows,
            "slow": bool(self._delay),
            "loses an answer": self._losing is not None,
        }
        state = ", ".join(name for name, there in faults.items() if there) or "well"
        return f"<Proxy {self.port} to {self.target}: {state}, {len(self._links)} connections>"

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._links)

    async def refuse(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """End every open connection with a reset."""
        for link in tuple(self._links):
            link.abort()

    def hold(self) -> None:
        """Hold everything back that is sent from now on."""
        self._open.clear()

    def half_open(self, *, new: bool = True) -> None:
        """Swallow everything sent over open connections and, with ``new``, also over new ones."""
        self._swallows = new
        for link in self._links:
            link.swallows = True

    def slow(self, seconds: float) -> None:
        """Delay each chunk by ``seconds``."""
        self._delay = seconds

    def lose_answer(self, containing: bytes = b"") -> None:
        """Swallow the answer to the next request that has these bytes, end its connection, set `lost`."""
        self._losing = containing
        self.lost.clear()

    async def heal(self) -> None:
        """End every fault. Cut the connections that lost bytes."""
        for link in tuple(self._links):
            if self._swallows or link.swallows:
                link.abort()
        self._swallows, self._delay, self._losing = False, 0.0, None
        self._open.set()
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            self.accepted += 1
            try:
                answers, requests = await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:
                writer.transport.abort()
                return
            link = _Link(writer, requests)
            self._links.add(link)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._forward(reader, requests, link, answers=False))
                    group.create_task(self._forward(answers, writer, link, answers=True))
            finally:
                self._links.discard(link)
                link.abort()
        except* OSError:
            pass  # one side is gone, and the other was closed
        finally:
            self._tasks.discard(task)

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, link: _Link, *, answers: bool
    ) -> None:
        while data := await source.read(CHUNK):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._open.wait()
            if self._swallows or link.swallows:
                continue
            if answers and link.loses_answer:
                self.lost.set()
                break
            if not answers and self._losing is not None and self._losing in data:
                self._losing, link.loses_answer = None, True
            if sink.is_closing():
                break  # closed in the meantime: uvloop refuses to write to it
            sink.write(data)
            await sink.drain()
        if answers and not link.loses_answer:
            with suppress(OSError):
                await sink.drain()
                sink.close()
                await sink.wait_closed()
        raise ConnectionResetError  # ends the other direction, too

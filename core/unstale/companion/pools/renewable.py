"""A pool of connections that can be replaced while requests still use the old one."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from unstale.errors import PoolClosed

T = TypeVar("T")

CLOSED: Final = "the connection pool is closed; use it inside `async with ConnectionPool.from_env() as pool`"


class Generation(Generic[T]):
    """One of the successive sets of connections, and the number of requests that use it."""

    __slots__ = ("retired", "transport", "users")

    def __init__(self, transport: T) -> None:
        self.transport = transport
        self.users = 0
        self.retired = False


class Use(Generic[T]):
    """One request's hold on a generation."""

    __slots__ = ("_generation", "_owner", "transport")

    def __init__(self, owner: "Renewable[T]", generation: Generation[T]) -> None:
        self._owner = owner
        self._generation: Generation[T] | None = generation
        self.transport = generation.transport

    def over(self) -> None:
        """End the request's hold; a second call does nothing."""
        generation, self._generation = self._generation, None
        if generation is not None:
            self._owner.give_back(generation)


class Renewable(Generic[T]):
    """Hand out the current generation; dispose of a retired one when its last request ends.

    ``new`` and ``dispose`` must not block; ``dispose`` is called once for each generation. Safe to share
    between threads.
    """

    def __init__(self, new: Callable[[], T], dispose: Callable[[T], object]) -> None:
        self._new = new
        self._dispose = dispose
        self._lock = threading.Lock()
        self._current: Generation[T] | None = None
        self._used: set[Generation[T]] = set()
        self._closed = False
        self._idle: list[Callable[[], object]] = []

    @property
    def in_flight(self) -> int:
        """Number of requests that use any generation now."""
        return sum(generation.users for generation in tuple(self._used))

    def take(self) -> Use[T]:
        """Hold the current generation until ``over()`` is called; raises `PoolClosed`."""
        with self._lock:
            if self._closed:
                raise PoolClosed(CLOSED)
            current = self._current
            if current is None:
                current = self._current = Generation(self._new())
            current.users += 1
            self._used.add(current)
        return Use(self, current)

    def give_back(self, generation: Generation[T]) -> None:
        """End one hold on ``generation``; called by `Use.over`."""
        with self._lock:
            generation.users -= 1
            if generation.users:
                return
            self._used.discard(generation)
            over = generation.retired
            waiting = () if self._used else tuple(self._idle)
        if over:
            self._dispose(generation.transport)
        for call in waiting:
            call()

    def renew(self) -> None:
        """Open new connections for the next request; requests in flight end on the old ones."""
        with self._lock:
            old, self._current = self._current, None
            if old is None:
                return
            old.retired = True
            over = not old.users
        if over:
            self._dispose(old.transport)

    async def drain(self, *, timeout: float) -> bool:
        """Refuse new requests and wait at most ``timeout`` seconds; return True if those in flight ended."""
        loop, idle = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the caller
                loop.call_soon_threadsafe(idle.set)

        with self._lock:
            self._closed = True
            if not self._used:
                return True
            self._idle.append(tell)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await idle.wait()
        return not self._used

    def abandon(self) -> list[T]:
        """After `drain`: return what is not disposed of, the current generation included, to be closed."""
        with self._lock:
            self._closed = True
            left = {*self._used}
            if self._current is not None:
                left.add(self._current)
            self._current = None
            for generation in left:
                generation.retired = False  # not disposed of twice
            return [generation.transport for generation in left]


class AsyncRenewable(Renewable[T]):
    """A `Renewable` for connections of one event loop, which a coroutine closes.

    ``close`` is awaited once for each generation, in ``loop``; `finish` waits for all of them.
    """

    def __init__(
        self,
        new: Callable[[], T],
        close: Callable[[T], Awaitable[object]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(new, self._close_soon)
        self._close = close
        self._loop = loop
        self._closing: set[asyncio.Task[None]] = set()

    async def finish(self, *, timeout: float) -> None:
        """Refuse new requests, wait at most ``timeout`` seconds for those in flight, then close all."""
        try:
            await self.drain(timeout=timeout)
        finally:
            for transport in self.abandon():
                await self._close(transport)
            if self._closing:
                await asyncio.wait(self._closing)

    def _close_soon(self, transport: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its sockets with it
            self._loop.call_soon_threadsafe(self._spawn, transport)

    def _spawn(self, transport: T) -> None:
        task = asyncio.create_task(self._close_one(transport), name="unstale-pool-renewed")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_one(self, transport: T) -> None:
        await self._close(transport)

"""Transports over renewable connections, for httpx and for httpx2 alike.

The two libraries have the same methods in classes that are not related. A transport therefore inherits from a
class of this module first, and second from the library's own base class, which the library's client expects.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from unstale.companion.pools.renewable import AsyncRenewable, Use
from unstale.companion.pools.vitals import Vitals


class Answer(Protocol):
    """The part of a response that is read here."""

    @property
    def status_code(self) -> int: ...


T = TypeVar("T")
Request = TypeVar("Request")
Response = TypeVar("Response", bound=Answer)
Asked = TypeVar("Asked", contravariant=True)
Given = TypeVar("Given", bound=Answer, covariant=True)


class LibraryTransport(Protocol[Asked, Given]):
    """The library's own transport, which holds the connections."""

    async def handle_async_request(self, request: Asked) -> Given: ...

    async def aclose(self) -> None: ...


class Body(Protocol):
    """The library's stream of a response body."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Exchange:
    """One request and its response, while they hold connections.

    Args:
        use: The hold on the connections.
        vitals: Where the result is recorded.
        broken: The library's error for a request without an answer.
    """

    def __init__(self, use: Use[T], vitals: Vitals, *, broken: type[Exception]) -> None:
        self._over, self._vitals, self._broken = use.over, vitals, broken
        self._began = vitals.began()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Send the request inside the block; an error there ends the exchange."""
        try:
            with self.reading():
                yield
        except BaseException:
            self.over()
            raise

    def answered(self, status: int) -> None:
        """Record that the response began, with this HTTP status."""
        self._vitals.answered(self._began, status=status)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait for the server inside the block; a broken connection is recorded."""
        try:
            yield
        except self._broken as error:
            self._vitals.failed(error)
            raise

    def over(self) -> None:
        """Release the connections for another request; a second call does nothing."""
        self._over()


class AsyncTransport(ABC, Generic[Request, Response]):
    """Send each request over the current connections. Inherit from it before ``AsyncBaseTransport``.

    Attributes:
        broken: The library's error for a request without an answer.
        renewable: The connections; the owner closes them.
    """

    broken: type[Exception]

    def __init__(
        self,
        new: Callable[[], LibraryTransport[Request, Response]],
        vitals: Vitals,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.renewable = AsyncRenewable(new, _close, loop)
        self._vitals = vitals

    async def handle_async_request(self, request: Request) -> Response:
        """Return the response; its body holds the connections until it is closed. Raises `PoolClosed`."""
        use = self.renewable.take()
        exchange = Exchange(use, self._vitals, broken=self.broken)
        with exchange.asking():
            response = await use.transport.handle_async_request(request)
        exchange.answered(response.status_code)
        self.follow(response, exchange)
        return response

    @abstractmethod
    def follow(self, response: Response, exchange: Exchange) -> None:
        """Put an `AsyncStream` around the body of ``response``."""


class AsyncStream:
    """A body that ends its exchange when it is closed. Inherit from it before ``AsyncByteStream``."""

    def __init__(self, body: Body, exchange: Exchange) -> None:
        self._body = body
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._exchange.reading():
            async for part in self._body:
                yield part

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        finally:
            self._exchange.over()


async def _close(transport: LibraryTransport[Request, Response]) -> None:
    await transport.aclose()

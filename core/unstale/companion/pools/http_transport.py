"""What passes an HTTP client's requests on to renewable connections, for httpx and for httpx2 alike.

The two libraries have the same methods in classes that are not related. So what is here comes first among the
bases of a class, and the library's own class, of which its client expects one, comes second.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from unstale.companion.pools.renewable import AsyncRenewable, Use
from unstale.companion.pools.vitals import Vitals


class Answer(Protocol):
    """What is read of a response."""

    @property
    def status_code(self) -> int: ...


T = TypeVar("T")
Request = TypeVar("Request")
Response = TypeVar("Response", bound=Answer)
Asked = TypeVar("Asked", contravariant=True)
Given = TypeVar("Given", bound=Answer, covariant=True)


class Connections(Protocol[Asked, Given]):
    """The library's transport, which holds connections."""

    async def handle_async_request(self, request: Asked) -> Given: ...

    async def aclose(self) -> None: ...


class Body(Protocol):
    """The library's stream of a response."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Exchange:
    """One request and its response, while they hold connections.

    Args:
        use: The hold.
        vitals: What is told how it went.
        broken: What the library raises where there is no answer.
    """

    def __init__(self, use: Use[T], vitals: Vitals, *, broken: type[Exception]) -> None:
        self._over, self._vitals, self._broken = use.over, vitals, broken
        self._began = vitals.began()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The block sends the request; if it raises, that was all."""
        try:
            with self.reading():
                yield
        except BaseException:
            self.over()
            raise

    def answered(self, status: int) -> None:
        """The response began, with this HTTP status."""
        self._vitals.answered(self._began, status=status)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The block waits for the server."""
        try:
            yield
        except self._broken as error:
            self._vitals.failed(error)
            raise

    def over(self) -> None:
        """The connections are free for another request; a second call does nothing."""
        self._over()


class AsyncTransport(ABC, Generic[Request, Response]):
    """Sends each request over the current connections; goes before the library's ``AsyncBaseTransport``.

    Attributes:
        broken: What the library raises where there is no answer.
        renewable: The connections; closing them is up to the owner.
    """

    broken: type[Exception]

    def __init__(
        self,
        new: Callable[[], Connections[Request, Response]],
        vitals: Vitals,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.renewable = AsyncRenewable(new, _close, loop)
        self._vitals = vitals

    async def handle_async_request(self, request: Request) -> Response:
        """The response, whose body holds the connections until it is closed; raises `PoolClosed`."""
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
    """A body that ends its exchange when it is closed; goes before the library's ``AsyncByteStream``."""

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


async def _close(connections: Connections[Request, Response]) -> None:
    await connections.aclose()

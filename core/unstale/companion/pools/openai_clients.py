"""OpenAI clients over renewable connections: one per event loop, and one for threads."""

import asyncio
from collections.abc import Iterator
from typing import Final

import httpx  # noqa: F401  # openai uses it if it is imported, and fails while another thread imports it
import httpx2
from openai import AsyncOpenAI, OpenAI

from unstale.companion.pools.environment import proxy_of
from unstale.companion.pools.http_transport import AsyncStream, AsyncTransport, Exchange
from unstale.companion.pools.no_cookies import no_cookies
from unstale.companion.pools.renewable import Renewable
from unstale.companion.pools.usage import follow, follow_sync
from unstale.companion.pools.vitals import Vitals
from unstale.errors import SettingError
from unstale.settings import PoolSettings

DEFAULT_URL: Final = "https://api.openai.com/v1"


class OpenAIClients:
    """The `AsyncOpenAI` client of one event loop. Made in any thread, used in the loop."""

    name = "openai"
    clients = 1

    def __init__(self, settings: PoolSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._key, self._url = _credentials(settings)
        self.vitals = Vitals()
        context, proxy, limits = httpx2.create_ssl_context(), proxy_of(self._url), _limits(settings)

        def new() -> httpx2.AsyncHTTPTransport:
            return httpx2.AsyncHTTPTransport(verify=context, limits=limits, proxy=proxy)

        transport = _OpenAITransport(new, self.vitals, loop)
        self._renewable = transport.renewable
        self._http = httpx2.AsyncClient(
            transport=transport,
            follow_redirects=True,
            cookies=no_cookies(),
            event_hooks={"response": [follow]},
        )
        self.client = AsyncOpenAI(api_key=self._key, base_url=self._url, http_client=self._http)

    @property
    def alive(self) -> bool:
        return not self._http.is_closed

    @property
    def in_flight(self) -> int:
        return self._renewable.in_flight

    async def check(self) -> None:
        """Fetch the list of models: free of charge, and it detects a wrong key."""
        response = await self._http.get(
            f"{self._url.rstrip('/')}/models", headers={"Authorization": f"Bearer {self._key}"}
        )
        if response.status_code in (401, 403):
            self.vitals.refused(f"HTTP {response.status_code}: check OPENAI_API_KEY")

    async def renew(self) -> None:
        self._renewable.renew()

    async def close(self, *, timeout: float) -> None:
        try:
            await self._renewable.finish(timeout=timeout)
        finally:
            await self.client.close()


class OpenAISync:
    """The `OpenAI` client of this process; any thread may use it."""

    name = "openai_sync"
    clients = 1

    def __init__(self, settings: PoolSettings) -> None:
        key, url = _credentials(settings)
        self.vitals = Vitals()
        context, proxy, limits = httpx2.create_ssl_context(), proxy_of(url), _limits(settings)

        def new() -> httpx2.HTTPTransport:
            return httpx2.HTTPTransport(verify=context, limits=limits, proxy=proxy)

        self._renewable = Renewable(new, httpx2.HTTPTransport.close)
        self._http = httpx2.Client(
            transport=_SyncTransport(self._renewable, self.vitals),
            follow_redirects=True,
            cookies=no_cookies(),
            event_hooks={"response": [follow_sync]},
        )
        self.client = OpenAI(api_key=key, base_url=url, http_client=self._http)

    @property
    def alive(self) -> bool:
        return not self._http.is_closed

    @property
    def in_flight(self) -> int:
        return self._renewable.in_flight

    async def check(self) -> None:
        """Do nothing: it would block the event loop, and `OpenAIClients` checks the same server."""

    async def renew(self) -> None:
        self._renewable.renew()

    async def close(self, *, timeout: float) -> None:
        try:
            await self._renewable.drain(timeout=timeout)
        finally:
            self.client.close()
            for transport in self._renewable.abandon():
                transport.close()


class _OpenAITransport(AsyncTransport[httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport):
    broken = httpx2.TransportError

    def follow(self, response: httpx2.Response, exchange: Exchange) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _OpenAIStream(response.stream, exchange)


class _OpenAIStream(AsyncStream, httpx2.AsyncByteStream):
    """An `AsyncStream` that the library accepts as its own."""


class _SyncTransport(httpx2.BaseTransport):
    def __init__(self, renewable: Renewable[httpx2.HTTPTransport], vitals: Vitals) -> None:
        self._renewable = renewable
        self._vitals = vitals

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        use = self._renewable.take()
        exchange = Exchange(use, self._vitals, broken=httpx2.TransportError)
        with exchange.asking():
            response = use.transport.handle_request(request)
        exchange.answered(response.status_code)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _SyncStream(response.stream, exchange)
        return response


class _SyncStream(httpx2.SyncByteStream):
    def __init__(self, body: httpx2.SyncByteStream, exchange: Exchange) -> None:
        self._body = body
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        with self._exchange.reading():
            yield from self._body

    def close(self) -> None:
        try:
            self._body.close()
        finally:
            self._exchange.over()


def _credentials(settings: PoolSettings) -> tuple[str, str]:
    if settings.openai_api_key is None:
        raise SettingError("OPENAI_API_KEY is not set: the pool's OpenAI clients need it")
    return settings.openai_api_key.get_secret_value(), settings.openai_base_url or DEFAULT_URL


def _limits(settings: PoolSettings) -> httpx2.Limits:
    return httpx2.Limits(
        max_connections=settings.pool_connections,
        max_keepalive_connections=settings.pool_connections,
        keepalive_expiry=settings.pool_keepalive,
    )

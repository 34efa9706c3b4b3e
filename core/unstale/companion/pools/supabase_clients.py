"""Supabase clients of one event loop, all over one httpx client with renewable connections."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import httpx
from supabase import AsyncClient, AsyncClientOptions

from unstale.companion.pools.environment import proxy_of
from unstale.companion.pools.http_transport import AsyncStream, AsyncTransport, Exchange
from unstale.companion.pools.no_cookies import no_cookies
from unstale.companion.pools.shared_supabase import SharedClient
from unstale.companion.pools.vitals import Vitals
from unstale.companion.recording.recorder import current
from unstale.errors import SettingError
from unstale.runtime.project_url import project_url
from unstale.settings import PoolSettings

MOST_CLIENTS: Final = 32
"""Most clients of one event loop; they differ by API key and schema, of which a project has few."""
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
"""Seconds; the timeouts of a client that is passed in replace the library's own."""


class SupabaseClients:
    """Async clients by key and schema. Made in any thread, used in the loop."""

    name = "supabase"

    def __init__(self, settings: PoolSettings, loop: asyncio.AbstractEventLoop) -> None:
        if settings.supabase_url is None:
            raise SettingError("SUPABASE_URL is not set: the pool's Supabase clients need it")
        self._url = project_url(settings.supabase_url)
        self._key = None if settings.supabase_key is None else settings.supabase_key.get_secret_value()
        self.vitals = Vitals()
        context, proxy = httpx.create_ssl_context(), proxy_of(self._url)
        limits = httpx.Limits(
            max_connections=settings.pool_connections,
            max_keepalive_connections=settings.pool_connections,
            keepalive_expiry=settings.pool_keepalive,
        )

        def new() -> httpx.AsyncHTTPTransport:
            # HTTP/1.1: after 10,000 requests the platform ends an HTTP/2 connection, and httpx then fails
            # requests on it (supabase-py issue 1064).
            return httpx.AsyncHTTPTransport(verify=context, limits=limits, proxy=proxy)

        hooks: list[Callable[..., Any]] = [self._keep_the_key]
        if (recorder := current(settings.learn)) is not None:
            from unstale.companion.recording.rest import RestRecorder

            hooks.append(RestRecorder(recorder, settings))
        transport = _SupabaseTransport(new, self.vitals, loop)
        self._renewable = transport.renewable
        self._http = httpx.AsyncClient(
            transport=transport,
            follow_redirects=True,
            timeout=TIMEOUT,
            cookies=no_cookies(),
            event_hooks={"request": hooks},
        )
        self._origin = _origin(httpx.URL(self._url))
        self._clients: dict[tuple[str, str], AsyncClient] = {}

    @property
    def alive(self) -> bool:
        return not self._http.is_closed

    @property
    def in_flight(self) -> int:
        return self._renewable.in_flight

    @property
    def clients(self) -> int:
        return len(self._clients)

    def client(self, *, schema: str, key: str | None) -> AsyncClient:
        """Return the client of this key and schema; no I/O."""
        key = key if key is not None else self._key
        if key is None:
            raise SettingError(
                "SUPABASE_SECRET_KEY (or SUPABASE_SERVICE_ROLE_KEY) is not set: the pool's Supabase clients "
                "need it, or pass key="
            )
        client = self._clients.get((key, schema))
        if client is None:
            if len(self._clients) >= MOST_CLIENTS:
                raise ValueError(
                    f"more than {MOST_CLIENTS} pairs of Supabase key and schema: keys are API keys; for the "
                    "token of a user, set the Authorization header of the request"
                )
            client = self._clients[key, schema] = SharedClient(
                self._url,
                key,
                AsyncClientOptions(
                    schema=schema,
                    auto_refresh_token=False,
                    persist_session=False,
                    httpx_client=self._http,
                ),
            )
        return client

    async def _keep_the_key(self, request: httpx.Request) -> None:
        """Send the API key to the project only; after a redirect, httpx withholds only Authorization."""
        if _origin(request.url) != self._origin:
            request.headers.pop("apikey", None)

    async def check(self) -> None:
        """Send HEAD to the root of the REST API: no body, no query, and it detects a wrong key."""
        key = self._key or next(iter(self._clients), ("", ""))[0]
        response = await self._http.head(
            f"{self._url.rstrip('/')}/rest/v1/", headers={"apikey": key, "Authorization": f"Bearer {key}"}
        )
        if response.status_code in (401, 403):
            self.vitals.refused(f"HTTP {response.status_code}: check SUPABASE_SECRET_KEY")

    async def renew(self) -> None:
        self._renewable.renew()

    async def close(self, *, timeout: float) -> None:
        try:
            for client in self._clients.values():
                if client.get_channels():
                    await client.remove_all_channels()
            await self._renewable.finish(timeout=timeout)
        finally:
            await self._http.aclose()


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


class _SupabaseTransport(AsyncTransport[httpx.Request, httpx.Response], httpx.AsyncBaseTransport):
    broken = httpx.TransportError

    def follow(self, response: httpx.Response, exchange: Exchange) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _SupabaseStream(response.stream, exchange)


class _SupabaseStream(AsyncStream, httpx.AsyncByteStream):
    """An `AsyncStream` that the library accepts as its own."""

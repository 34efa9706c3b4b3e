"""One aiohttp session per event loop, over renewable connections."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from unstale.companion.pools.renewable import AsyncRenewable
from unstale.companion.pools.vitals import Vitals
from unstale.settings import PoolSettings


class HttpSession:
    """The aiohttp session of one event loop; made in the loop that uses it."""

    name = "http"
    clients = 1

    def __init__(self, settings: PoolSettings) -> None:
        self.vitals = Vitals()

        def new() -> aiohttp.TCPConnector:
            return aiohttp.TCPConnector(
                limit=settings.pool_connections,
                limit_per_host=settings.pool_connections_per_host,
                ttl_dns_cache=round(settings.pool_dns_ttl),
                keepalive_timeout=settings.pool_keepalive,
            )

        self._connector = _Connector(new)
        self.client = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # the session is everybody's: a cookie may be one user's
            trust_env=True,
            trace_configs=[_traces(self.vitals)],
        )

    @property
    def alive(self) -> bool:
        return not self.client.closed

    @property
    def in_flight(self) -> int:
        return self._connector.renewable.in_flight

    async def check(self) -> None:
        """Do nothing: the session has no server of its own. Its requests show its health."""

    async def renew(self) -> None:
        self._connector.renewable.renew()

    async def close(self, *, timeout: float) -> None:
        try:
            await self._connector.renewable.finish(timeout=timeout)
        finally:
            await self.client.close()


class _Connector(aiohttp.BaseConnector):
    """Hands each request to the current connector, so that the session outlives a renewal."""

    def __init__(self, new: Callable[[], aiohttp.TCPConnector]) -> None:
        super().__init__()
        self.renewable = AsyncRenewable(new, _close, asyncio.get_running_loop())

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        use = self.renewable.take()
        try:
            connection = await use.transport.connect(req, traces, timeout)
        except BaseException:
            use.over()
            raise
        connection.add_callback(use.over)
        return connection


async def _close(connector: aiohttp.TCPConnector) -> None:
    await connector.close()


def _traces(vitals: Vitals) -> aiohttp.TraceConfig:
    traces = aiohttp.TraceConfig()

    async def start(
        _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestStartParams
    ) -> None:
        context.began = vitals.began()

    async def end(
        _session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        # With any status: the session may talk to any server, and this one answered.
        vitals.answered(context.began)

    async def failed(
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        params: aiohttp.TraceRequestExceptionParams,
    ) -> None:
        if isinstance(params.exception, aiohttp.ClientConnectionError | OSError | TimeoutError):
            vitals.failed(params.exception)

    traces.on_request_start.append(start)
    traces.on_request_end.append(end)
    traces.on_request_exception.append(failed)
    return traces

"""The worker's HTTP server: health, readiness, metrics and a plain status page."""

import asyncio
import hmac
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from unstale.errors import UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.observe.http_guard import Guard, own_hosts_only
from unstale_worker.observe.metrics import CONTENT_TYPE, Metrics
from unstale_worker.observe.status import READY_LAG, Role, Status

OPEN_PATHS: Final = frozenset({"/healthz"})
"""Answered without a token, as they reveal only that the process runs."""


@asynccontextmanager
async def serving(settings: WorkerSettings, status: Callable[[], Status]) -> AsyncIterator[str]:
    """Serve inside the body; yields the URL. Raises `UnstaleError` if the port is taken."""
    guard = Guard()
    runner = web.AppRunner(application(settings, status, guard), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    server: asyncio.Server | None = None
    try:
        assert runner.server is not None
        factory = guard.protocols(runner.server)
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(factory, settings.http_host, settings.http_port)
        except OSError as error:
            raise UnstaleError(
                f"HTTP cannot listen on {settings.http_host}:{settings.http_port} ({error.strerror}); "
                "another worker? Set UNSTALE_HTTP_PORT to a free port, or to 0 for any"
            ) from error
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        if server is not None:
            server.close()
        await runner.cleanup()


def application(settings: WorkerSettings, status: Callable[[], Status], guard: Guard) -> web.Application:
    """Build the routes; every request calls ``status``."""
    metrics = Metrics(status)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        now = status()
        return _json(
            {
                "ready": now.ready,
                "why": why(now),
                "source": now.source,
                "not_captured": dict(now.not_captured),
            },
            code=200 if now.ready else 503,
        )

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def page(_: web.Request) -> web.Response:
        return _json(as_dict(status()))

    token = settings.http_token
    access = own_hosts_only() if token is None else _bearer(token.get_secret_value())
    middlewares: list[Middleware] = [guard.middleware, access]
    app = web.Application(middlewares=middlewares)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/", page)
    return app


def why(status: Status) -> str:
    """Explain readiness in words."""
    if status.ready and status.not_captured:
        return f"{status.role}, but changes may go unreported of {', '.join(status.not_captured)}"
    if status.ready:
        return str(status.role)
    if status.role is Role.LEADING:
        lag = f"{status.lag:.1f} s" if math.isfinite(status.lag) else "unknown yet"
        reason = f"leading, but the lag is {lag} (ready below {READY_LAG:.0f} s)"
    elif status.role is Role.STANDBY:
        database = "Supabase" if status.source == "supabase" else "Postgres"
        down = [name for name, up in (("Redis", status.redis), (database, status.database)) if not up]
        reason = f"standing by, but {' and '.join(down)} did not answer"
    elif status.role is Role.REFRESHING:
        reason = "refreshing, but Redis did not answer"
    else:
        reason = str(status.role)
    return f"{reason}: {status.problem}" if status.problem else reason


def as_dict(status: Status) -> dict[str, object]:
    """Return the status as JSON-ready values; null for what is not known yet."""
    plain = asdict(status)
    plain["counters"] = {
        name: value
        for name, value in plain["counters"].items()
        if name != "latency" and not name.endswith("_at")
    }
    for name in ("lag", "watermark_age"):
        plain[name] = round(plain[name], 4) if math.isfinite(plain[name]) else None
    return {"ready": status.ready, "why": why(status), **plain}


def _bearer(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path not in OPEN_PATHS and not hmac.compare_digest(given, expected):
            return web.Response(
                status=401,
                text="a bearer token is required: UNSTALE_HTTP_TOKEN\n",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    return check


def _json(data: object, *, code: int = 200) -> web.Response:
    return web.Response(
        status=code,
        body=orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2),
        content_type="application/json",
    )

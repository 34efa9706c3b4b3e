"""The worker's HTTP server: health, readiness, metrics and a plain status page."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Final, Protocol

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from unstale.errors import UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.agents import show as agents_shown
from unstale_worker.observe.agent_metrics import AgentTotals
from unstale_worker.observe.audit_metrics import metrics_text
from unstale_worker.observe.http_access import NO_TOKEN, OPEN_PREFIX, SIGNED_IN, Access, wants_page
from unstale_worker.observe.http_guard import Guard, own_hosts_only
from unstale_worker.observe.metrics import CONTENT_TYPE, Metrics
from unstale_worker.observe.reports_view import ReportsView
from unstale_worker.observe.status import READY_LAG, Role, Status

BODY_MOST: Final = 64 * 1024
"""Bytes of a request's body."""


class Site(Protocol):
    """Pages for browsers, beside the answers to programs."""

    def install(self, app: web.Application, access: Access, guard: Guard) -> None:
        """Add routes, apart from ``/``."""

    def page(self, request: web.Request) -> web.Response:
        """Answer a browser at ``/``; ``request[SIGNED_IN]`` says if it may see the page."""


@asynccontextmanager
async def serving(
    settings: WorkerSettings, status: Callable[[], Status], site: Site | None = None
) -> AsyncIterator[str]:
    """Serve inside the body; yields the URL. Raises `UnstaleError` if the port is taken."""
    guard = Guard()
    app = application(settings, status, guard, site)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
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


def application(
    settings: WorkerSettings, status: Callable[[], Status], guard: Guard, site: Site | None = None
) -> web.Application:
    """Build the routes; every request calls ``status``."""
    metrics, reports, totals = Metrics(status), ReportsView(settings), AgentTotals()

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
        body = metrics.text()
        # Those of agents and audit come from the leader alone, so that sums over all workers are right.
        if status().role is Role.LEADING:
            if (found := await reports.agents()) is not None:
                body += totals.text(found)
            if (audit := await reports.audit()) is not None:
                body += metrics_text(audit[0])
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def page(request: web.Request) -> web.Response:
        if site is not None and wants_page(request):
            return site.page(request)
        if not request[SIGNED_IN]:
            raise web.HTTPUnauthorized(text=NO_TOKEN, headers={"WWW-Authenticate": "Bearer"})
        found, audit = await reports.agents(), await reports.audit()
        answer = _json(
            {
                **as_dict(status()),
                "agents": None if found is None else agents_shown.as_dict(found),
                "audit": None if audit is None else {**audit[0].model_dump(), "ago": audit[1]},
            }
        )
        answer.headers["Vary"] = "Accept"
        return answer

    async def api_agents(_: web.Request) -> web.Response:
        found = await reports.agents()
        if found is None:
            return _json({"problem": "Redis did not answer"}, code=503)
        return _json(agents_shown.as_dict(found))

    async def closing(_: web.Application) -> None:
        await reports.close()

    token = settings.http_token
    access = Access(None if token is None else token.get_secret_value())
    middlewares: list[Middleware] = [guard.middleware, access.middleware()]
    if token is None:
        middlewares.insert(1, own_hosts_only())
    middlewares.append(_naming_the_paths)
    app = web.Application(middlewares=middlewares, client_max_size=BODY_MOST)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/", page)
    if site is not None:
        site.install(app, access, guard)
    app.router.add_get("/api/agents", api_agents)
    app.on_cleanup.append(closing)
    return app


@web.middleware
async def _naming_the_paths(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a path that does not exist with those that do."""
    if isinstance(request.match_info.http_exception, web.HTTPNotFound):
        paths = sorted({each.canonical for each in request.app.router.resources()})
        shown = ", ".join(path for path in paths if not path.startswith(OPEN_PREFIX))
        raise web.HTTPNotFound(text=f"there is no {request.path!r:.200} here; there are {shown}\n")
    return await handler(request)


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
    del plain["capture_problems"]  # for programs that count; the two fields above say it in words
    for name in ("lag", "watermark_age"):
        plain[name] = round(plain[name], 4) if math.isfinite(plain[name]) else None
    return {"ready": status.ready, "why": why(status), **plain}


def _json(data: object, *, code: int = 200) -> web.Response:
    return web.Response(
        status=code,
        body=orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2),
        content_type="application/json",
    )

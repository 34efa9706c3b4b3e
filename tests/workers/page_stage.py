"""A worker's page without a worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from unstale_worker.observe.status import Role, Status, WorkerCounters
from unstale_worker.page.service import serving_page
from unstale_worker.rules import Rules
from workers import PROFILES, settings_for

LEADING = Status(
    role=Role.LEADING, source="outbox", fence=3, lag=0.01, watermark_age=0.2, listening=True, redis=True,
    database=True, problem="", counters=WorkerCounters(entries=5),
)  # fmt: skip


@asynccontextmanager
async def served(
    redis_url: str = "redis://127.0.0.1:1/0", *, token: str | None = None
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Serve the page of a worker that leads; yields a client, which keeps cookies, and the URL."""
    settings = settings_for(None, redis_url, http_port=0, http_token=token)
    async with (
        serving_page(settings, Rules.parse(PROFILES), lambda: LEADING) as url,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
    ):
        yield session, url

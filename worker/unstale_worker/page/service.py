"""Runs a worker of either role with its HTTP server and its page until it is stopped."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from unstale.settings import WorkerSettings
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.http import serving
from unstale_worker.observe.status import Status
from unstale_worker.page.feed import Feed
from unstale_worker.page.site import PageSite
from unstale_worker.refresh.refresh_worker import RefreshWorker
from unstale_worker.rules import Rules


async def run_service(settings: WorkerSettings, rules: Rules, *, stop: asyncio.Event) -> None:
    """Lead or stand by, and answer HTTP, until ``stop`` is set; then finish the batch at hand.

    Raises what `Worker.run` raises, and `UnstaleError` if the HTTP port is taken.
    """
    log, worker = structlog.get_logger("unstale.worker"), Worker(settings, rules)
    async with serving_page(settings, rules, worker.status) as url:
        log.info("serving", http=url, rules=rules.file)
        await worker.run(stop=stop)
    log.info("stopped")


async def run_refresh_service(settings: WorkerSettings, rules: Rules, *, stop: asyncio.Event) -> None:
    """Call loaders and answer HTTP until ``stop`` is set.

    Raises `ConfigurationError` if a loader cannot be found, `UnstaleError` if the HTTP port is taken, and
    what `RefreshWorker.run` raises.
    """
    log, worker = structlog.get_logger("unstale.refresh"), RefreshWorker(settings, rules)
    async with serving_page(settings, rules, worker.status) as url:
        log.info("serving", http=url, rules=rules.file)
        await worker.run(stop=stop)
    log.info("stopped")


@asynccontextmanager
async def serving_page(
    settings: WorkerSettings, rules: Rules, status: Callable[[], Status]
) -> AsyncIterator[str]:
    """Serve health, metrics and the page inside the body; yields the URL."""
    async with (
        Feed(settings, rules, status).running() as feed,
        serving(settings, status, PageSite(settings, rules, feed)) as url,
    ):
        yield url

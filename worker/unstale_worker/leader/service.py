"""Runs a worker and its HTTP server until it is stopped."""

import asyncio

import structlog

from unstale.settings import WorkerSettings
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.http import serving
from unstale_worker.rules import Rules

log = structlog.get_logger("unstale.worker")


async def run_service(settings: WorkerSettings, rules: Rules, *, stop: asyncio.Event) -> None:
    """Lead or stand by, and answer HTTP, until ``stop`` is set; then finish the batch at hand.

    Raises what `Worker.run` raises, and `UnstaleError` if the HTTP port is taken.
    """
    worker = Worker(settings, rules)
    async with serving(settings, worker.status) as url:
        log.info("serving", http=url, rules=rules.file)
        await worker.run(stop=stop)
    log.info("stopped")

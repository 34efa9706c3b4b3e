"""The demo's worker process: the real worker, which also reports its status."""

import asyncio
import math

from unstale.settings import WorkerSettings
from unstale_worker.demo import child
from unstale_worker.demo.reports import REPORT_EVERY, WorkerReport
from unstale_worker.leader.supervisor import Worker
from unstale_worker.page.service import serving_page
from unstale_worker.rules import Rules
from unstale_worker.runtime.logs import configure_logging


async def main(stop: asyncio.Event) -> None:
    """Run the worker until ``stop`` is set."""
    settings = WorkerSettings.from_env()
    configure_logging("warning")
    rules = Rules.load(settings.config)
    worker = Worker(settings, rules)

    async def report(url: str) -> None:
        while True:
            child.send(_report(worker, url))
            await asyncio.sleep(REPORT_EVERY)

    async with serving_page(settings, rules, worker.status) as url:
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(report(url))
            await worker.run(stop=stop)
            reporting.cancel()
        child.send(_report(worker, url))


def _report(worker: Worker, url: str) -> WorkerReport:
    status = worker.status()
    tokens = status.refreshed.tokens
    return WorkerReport(
        role=status.role.value,
        lag=status.lag if math.isfinite(status.lag) else None,
        listening=status.listening,
        entries=status.counters.entries,
        batches=status.counters.batches,
        keys=status.counters.keys,
        patterns=status.counters.patterns,
        errors=status.counters.errors,
        problem=status.problem,
        refreshes=status.refreshed.filled + status.refreshed.overtaken,
        url=url,
        unchanged=round(sum(status.refreshed.unchanged.values())),
        tokens=round(sum(number for labels, number in tokens.items() if labels[2] == "spent")),
        tokens_saved=round(sum(number for labels, number in tokens.items() if labels[2] == "saved")),
    )


if __name__ == "__main__":
    child.run(main)

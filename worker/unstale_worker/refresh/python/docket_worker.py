"""Runs one pydocket worker that calls Python loaders, and ends it in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog

from unstale.runtime.cancellation import cancelled
from unstale_worker.refresh.python import docket_queue
from unstale_worker.refresh.python.python_refresher import Jobs
from unstale_worker.refresh.redis.refresh_set import RefreshQueue

if TYPE_CHECKING:
    from docket import Docket

log = structlog.get_logger("unstale.refresh")

DRAIN: Final = 2.0
"""Seconds that pydocket's worker has to end once no loader runs any more."""


@asynccontextmanager
async def working(
    docket: "Docket",
    jobs: Jobs,
    queue: RefreshQueue,
    *,
    name: str,
    concurrency: int,
    takeover: float,
    grace: float,
) -> AsyncIterator["asyncio.Task[None]"]:
    """Take jobs inside; yields the task that does so, which ends only by an error.

    Afterwards no new job is taken, loaders that run may end within ``grace`` seconds, and the keys of the
    others are due again at once.
    """

    async def unknown(key: str) -> None:
        await queue.postpone([key], seconds=docket_queue.UNKNOWN_PAUSE)

    worker = docket_queue.open_worker(
        docket, name=name, concurrency=concurrency, takeover=takeover, unknown=unknown
    )
    ending: asyncio.Task[None] | None = None
    task: asyncio.Task[None] | None = None
    try:
        async with worker:
            task = asyncio.create_task(worker.run_forever(), name="refresh worker")
            try:
                yield task
            finally:
                ending = asyncio.create_task(_end(jobs, task, grace), name="refresh grace")
    finally:
        if ending is not None:
            await cancelled(ending)
        await jobs.stop()
        if task is not None:
            await cancelled(task)


async def _end(jobs: Jobs, task: "asyncio.Task[None]", grace: float) -> None:
    await asyncio.sleep(grace)
    if jobs.running:
        log.warning("loaders did not end in time; their keys are due again", loaders=jobs.running)
    await jobs.stop()
    await asyncio.sleep(DRAIN)
    await cancelled(task)  # pydocket waits for it, however long one of its connections says nothing

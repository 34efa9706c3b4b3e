"""What becomes of claimed keys: batches in the worker itself, or jobs for Python loaders."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unstale.runtime import failpoints
from unstale.runtime.cancellation import pass_on_cancellation
from unstale_worker.observe.refresh_counters import Tally
from unstale_worker.refresh.python import docket_queue
from unstale_worker.refresh.redis.pending_keys import Waiting
from unstale_worker.refresh.redis.refresh_set import RefreshQueue
from unstale_worker.refresh.sql.rate_window import Allowance
from unstale_worker.refresh.sql.sql_refresher import Batches
from unstale_worker.rules.refresh import RefreshSpec

if TYPE_CHECKING:
    from docket import Docket

BATCH_KEYS: Final = 500
"""Most keys in one query: large enough that a round trip costs little, small enough for a short lease."""
LOOK_AGAIN: Final = 0.01
"""Seconds after which it is looked again whether jobs have ended, while keys wait for their place."""
BUSY: Final = 0.1
"""Seconds until a key is due again whose job is just ending."""

Lost = Callable[[list[str]], None]
"""Takes keys that could not be worked on, as a server did not answer."""


async def run_batches(
    spec: RefreshSpec, waiting: Waiting, batches: Batches, allowance: Allowance | None, lost: Lost
) -> None:
    """Refresh what waits, batch after batch, for ever; run it as often as batches may run side by side."""
    while True:
        keys = await waiting.take(BATCH_KEYS)
        if allowance is not None:
            granted = allowance.grant(len(keys), now=time.monotonic())
            waiting.put(keys[granted:])
            keys = keys[:granted]
            if not keys:
                await asyncio.sleep(allowance.wait(now=time.monotonic()))
                continue
        try:
            if failpoints.on:
                await failpoints.reach("lines.before_batch")
            await batches.refresh(spec, keys)
        except BaseException:  # cancelled, too, as another batch's server did not answer
            lost(keys)
            raise


async def run_jobs(
    spec: RefreshSpec, waiting: Waiting, docket: "Docket", queue: RefreshQueue, tally: Tally, lost: Lost
) -> None:
    """Give what waits to the refresh workers, never more than may run at once, for ever.

    So the queue between stays short, and a rate or a pause makes few jobs come back. pydocket holds the limit
    too; but there a job too many is parked and woken, which cost 37 ms of each job where 2 ms are enough.
    """
    most = spec.concurrency
    given: set[str] = set()
    while True:
        pass_on_cancellation()  # a client of Redis may have dropped it
        await waiting.filled()
        if len(given) >= most:
            # Not those that wait again: nobody finished them in time, so their job may be lost.
            given = {
                key
                for key in await docket_queue.unfinished(docket, queue, sorted(given))
                if key not in waiting
            }
            if len(given) >= most:
                await asyncio.sleep(LOOK_AGAIN)
                continue
        if (paused := await queue.paused(str(spec.loader))) > 0:
            await asyncio.sleep(paused)
            continue
        keys = await waiting.take(most - len(given))
        try:
            if failpoints.on:
                await failpoints.reach("lines.before_jobs")
            busy = await docket_queue.add(docket, queue, spec, keys)
            if busy:
                if failpoints.on:
                    await failpoints.reach("lines.before_postpone")
                await queue.postpone(busy, seconds=BUSY)
        except BaseException:
            lost(keys)
            raise
        tally.dispatched += len(keys) - len(busy)
        given.update(set(keys) - set(busy))

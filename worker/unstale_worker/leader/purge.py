"""Purges the outbox while a worker leads."""

import asyncio
from typing import Final, NoReturn

import structlog

from unstale.errors import UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.leader.leadership import Leadership
from unstale_worker.observe.status import WorkerCounters
from unstale_worker.sources import Source

log = structlog.get_logger("unstale.worker")

PURGE_EVERY: Final = 30.0
"""Seconds between two rounds. A snapshot is recorded once a minute at most."""
PURGE_STEP: Final = 5_000
"""Entries deleted in one step of about 20 ms, so that no other statement waits long behind it."""
PURGE_PAUSE: Final = 0.05
"""Seconds between two steps of a round."""


async def keep_purging(
    source: Source, leadership: Leadership, settings: WorkerSettings, counters: WorkerCounters
) -> NoReturn:
    """Purge in small steps until cancelled; closes ``source`` at the end, and between two rounds.

    ``source`` must not be used by others, so that no change waits behind a purge.
    """
    try:
        while True:
            try:
                await source.begin_term(leadership.consumer, leadership.fence)
                while deleted := await source.purge(
                    rows=PURGE_STEP,
                    retention=settings.retention,
                    outbox_max_rows=settings.outbox_max_rows,
                ):
                    counters.purged += deleted
                    await asyncio.sleep(PURGE_PAUSE)
            except UnstaleError as error:
                log.warning("the purge failed; trying again", error=str(error), seconds=PURGE_EVERY)
            await source.close()  # a small pooler has no session to spare for half a minute
            await asyncio.sleep(PURGE_EVERY)
    finally:
        await source.close()

"""Keeps the outbox small while a worker leads."""

import asyncio
from typing import Final, NoReturn

import structlog

from unstale.errors import UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.leader.leadership import Leadership
from unstale_worker.observe.status import Counters
from unstale_worker.sources import Source

log = structlog.get_logger("unstale.worker")

PURGE_EVERY: Final = 30.0
"""Seconds between two rounds: a snapshot is recorded once a minute at most."""
PURGE_STEP: Final = 5_000
"""Entries a step deletes: some 20 ms, so that nobody waits long behind it."""
PURGE_PAUSE: Final = 0.05
"""Seconds between two steps of a round."""


async def keep_purging(
    source: Source, leadership: Leadership, settings: WorkerSettings, counters: Counters
) -> NoReturn:
    """Purge in small steps over a ``source`` of its own, so that no change waits behind it, until cancelled.

    Closes ``source``, also between two rounds.
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
                log.warning("the purge failed and is tried again", error=str(error), seconds=PURGE_EVERY)
            await source.close()  # half a minute is too long to hold a session of a small pooler
            await asyncio.sleep(PURGE_EVERY)
    finally:
        await source.close()

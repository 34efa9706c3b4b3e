"""Attempts what may fail until it succeeds, and says why it does not, though not at every attempt."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

import structlog

from unstale.errors import PositionMoved, UnstaleError
from unstale.runtime.cancellation import pass_on_cancellation
from unstale_worker.runtime.backoff import Backoff
from unstale_worker.runtime.log_throttle import Said

log = structlog.get_logger("unstale.worker")

T = TypeVar("T")

LASTED: Final = 1.0
"""Seconds after which an attempt that failed had worked, or was slow enough: pauses begin anew."""
SAY_EVERY: Final = 30.0
"""Seconds after which the log repeats why attempts still fail."""
FIRST_PAUSE: Final = 0.05
"""Seconds between the first two attempts."""
LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts at most: once a server is back, changes wait no longer than that."""


async def retried(
    attempt: Callable[[], Awaitable[T]],
    stop: asyncio.Event,
    *,
    fatal: tuple[type[Exception], ...],
    failed: Callable[[Exception], object],
) -> T | None:
    """Attempt until it succeeds or ``stop`` is set (None); only ``fatal`` errors get out.

    ``failed`` is told of every other one, except that the position moved, which reading the
    state again settles.
    """
    backoff = Backoff(first=FIRST_PAUSE, most=LONGEST_PAUSE)
    said = Said(every=SAY_EVERY)
    while not stop.is_set():
        began = asyncio.get_running_loop().time()
        try:
            return await attempt()
        except fatal:
            raise
        except PositionMoved as error:
            pass_on_cancellation()
            # Another leader, a failover or lost data: settled by reading the state again.
            log.info("a script was refused; reading the state again", reason=error.reason)
        except UnstaleError as error:
            pass_on_cancellation()
            failed(error)
            if said.anew(str(error)):
                log.warning("trying again", error=str(error))
        except Exception as error:
            pass_on_cancellation()
            failed(error)
            log.exception("unexpected error; trying again")
        if asyncio.get_running_loop().time() - began > LASTED:
            backoff.succeeded()
        with suppress(TimeoutError):
            async with asyncio.timeout(backoff.failed()):
                await stop.wait()
    return None

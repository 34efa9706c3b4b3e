"""Retry an operation until it succeeds, with growing pauses between the attempts."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

from unstale.errors import PositionMoved, UnstaleError
from unstale.runtime.cancellation import pass_on_cancellation, run_cancellable
from unstale_worker.runtime.backoff import Backoff
from unstale_worker.runtime.event_loop import stopped_within
from unstale_worker.runtime.log_throttle import LogThrottle

log = structlog.get_logger("unstale.worker")

T = TypeVar("T")

SETTLED_AFTER: Final = 1.0
"""Seconds after which a failed attempt resets the pauses: it had worked, or was slow enough by itself."""
LOG_EVERY: Final = 30.0
"""Seconds after which the log repeats an error that has not changed."""
FIRST_PAUSE: Final = 0.05
"""Seconds between the first two attempts."""
LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts at most: once a server is back, changes wait no longer than that."""


async def retry(
    operation: Callable[[], Coroutine[Any, Any, T]],
    *,
    failed: Callable[[Exception], object],
    stop: asyncio.Event | None = None,
    fatal: tuple[type[Exception], ...] = (),
    logger: Any = log,
    event: str = "trying again",
) -> T | None:
    """Run ``operation`` until it succeeds and return its result, or None once ``stop`` is set.

    Each attempt runs in a task of its own. Before Python 3.13 a task whose TaskGroup met an error may look
    cancelled from then on, and the next attempt must not inherit that. A cancelled caller waits until the
    attempt has ended.

    Args:
        operation: Makes one attempt.
        failed: Called with each error that is retried; the errors of a group one by one. A moved position is
            not an error here: reading the state again settles it.
        stop: Ends the pauses and lets no further attempt begin. It does not interrupt an attempt.
        fatal: Errors that are raised instead of retried.
        logger: Where errors are logged; the same text once, then every 30 s.
        event: Text of the log message.
    """
    backoff = Backoff(first=FIRST_PAUSE, most=LONGEST_PAUSE)
    throttle = LogThrottle(every=LOG_EVERY)
    stop = stop or asyncio.Event()
    while not stop.is_set():
        began = asyncio.get_running_loop().time()
        try:
            return await _attempt(operation)
        except fatal:
            raise
        except Exception as raised:
            for error in single_errors(raised):
                if isinstance(error, fatal):
                    raise error from raised
                if isinstance(error, PositionMoved):  # another leader, a failover or lost data
                    logger.info("a script was refused; reading the state again", reason=error.reason)
                    continue
                failed(error)
                _log(error, throttle, logger, event)
        if asyncio.get_running_loop().time() - began > SETTLED_AFTER:
            backoff.succeeded()
        await stopped_within(stop, seconds=backoff.failed())
    return None


def single_errors(error: Exception) -> list[Exception]:
    """Return the errors inside a group, or a list of the error itself."""
    if isinstance(error, ExceptionGroup):
        return [single for inner in error.exceptions for single in single_errors(inner)]
    return [error]


async def _attempt(operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
    try:
        return await run_cancellable(operation)
    except asyncio.CancelledError as error:
        pass_on_cancellation()
        raise RuntimeError("the attempt was cancelled from inside") from error


def _log(error: Exception, throttle: LogThrottle, logger: Any, event: str) -> None:
    if not isinstance(error, UnstaleError):
        logger.error(f"unexpected error; {event}", exc_info=error)
    elif throttle.allows(str(error)):
        logger.warning(event, error=str(error))

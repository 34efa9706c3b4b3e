"""Attempts work again and again, whatever becomes of an attempt."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from unstale.errors import UnstaleError
from unstale.runtime.cancellation import cancelled
from unstale_worker.runtime.backoff import Backoff

log = structlog.get_logger("unstale.refresh")


async def forever(attempt: Callable[[], Coroutine[Any, Any, None]], failed: Callable[[str], None]) -> None:
    """Attempt until cancelled, or until an attempt ends well; each error is logged and told to ``failed``."""
    backoff = Backoff(first=0.05, most=5.0)
    while True:
        began = time.monotonic()
        error = await outcome(attempt())
        if error is None:
            return
        for single in singles(error):
            failed(str(single) or type(single).__name__)
            if isinstance(single, UnstaleError):
                log.warning("refreshes are tried again", error=str(single))
            else:
                log.error("unexpected error in a refresh; trying again", exc_info=single)
        if time.monotonic() - began > 10.0:
            backoff.succeeded()
        await asyncio.sleep(backoff.failed())


async def outcome(work: Coroutine[Any, Any, None]) -> Exception | None:
    """Run ``work`` in a task of its own; returns its error. Cancelled with the caller, and waited for.

    Before Python 3.13 a task whose TaskGroup met an error is left looking as if somebody had cancelled it;
    and work that ends cancelled without anybody's wish must not end the caller.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await cancelled(task)
        raise
    if task.cancelled():
        return RuntimeError("it was cancelled from inside")
    error = task.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error


def singles(error: Exception) -> list[Exception]:
    """The errors of a group, or the only one."""
    if isinstance(error, ExceptionGroup):
        return [single for inner in error.exceptions for single in singles(inner)]
    return [error]

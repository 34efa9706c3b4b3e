"""Cancellations that something else swallows, and ends that must come all the same.

Before Python 3.13 a TaskGroup drops its own task's cancellation when a child fails at that moment, and before
3.12 ``asyncio.wait_for`` can do the same; redis-py sends by it when it has a ``socket_timeout``. A loop that
goes on after every error, or a group that cancels each of its tasks once and waits for them, would then never
end.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

AGAIN: Final = 0.5
"""Seconds after which a task that still runs is cancelled again."""


def pass_on_cancellation() -> None:
    """Raise CancelledError if this task was cancelled; call it where a loop survives an error."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def insistently(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in a task of its own, and once the caller is cancelled, cancel it until it is done.

    For a child of a TaskGroup that calls a library which may drop a cancellation.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await cancelled(task)
        raise
    return task.result()


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel a task until it is done. Its outcome is not raised; the caller's own cancellation is."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN)

"""Cancellations that something else swallows, and ends that must come all the same.

Before Python 3.13 a TaskGroup drops its own task's cancellation when a child fails at that moment, and before
3.12 ``asyncio.wait_for`` can do the same. A loop that goes on after every error would then never end.
"""

import asyncio
from typing import Any, Final

AGAIN: Final = 0.5
"""Seconds after which a task that still runs is cancelled again."""


def pass_on_cancellation() -> None:
    """Raise CancelledError if this task was cancelled; call it where a loop survives an error."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel a task until it is done. Its outcome is not raised; the caller's own cancellation is."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN)

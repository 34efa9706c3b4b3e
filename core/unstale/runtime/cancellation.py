"""End tasks reliably although a library, or Python before 3.13, may drop a cancellation.

Before Python 3.13 a TaskGroup drops its own task's cancellation when a child fails at the same moment. Before
Python 3.12 ``asyncio.wait_for`` can do the same, and redis-py sends commands through it when it has a
``socket_timeout``. A loop that survives every error, or a group that cancels each of its tasks only once and
waits for them, would then never end. All workarounds are in this file; they can go when Python 3.13 is the
oldest version supported.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

T = TypeVar("T")

AGAIN: Final = 0.5
"""Seconds after which a task that still runs is cancelled again."""


def pass_on_cancellation() -> None:
    """Raise CancelledError if this task was cancelled; call it in a loop that continues after errors."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def run_cancellable(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Call ``work`` in a task of its own; if the caller is cancelled, cancel that task until it has ended.

    For a child of a TaskGroup that calls a library which may drop a cancellation. It takes a function because
    a group may be cancelled before its child has begun: a coroutine object would then never be awaited.
    """
    task = asyncio.create_task(work())
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await cancelled(task)
        raise
    return task.result()


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel a task until it has ended. Raises the caller's own cancellation, but no error of the task."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN)
    if not task.cancelled():
        task.exception()  # retrieved: asyncio would log an error that came with the cancellation


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """Run ``work`` beside the body, and cancel it when the body ends. Its errors are not raised."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        await cancelled(task)

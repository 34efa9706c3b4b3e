"""Event loop of unstale's processes: uvloop where it is available, and signals that stop it."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from unstale.runtime.cancellation import cancelled

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop."""
    if sys.platform != "win32":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run_until_stopped(work: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run ``work(stop)`` and return its exit code.

    The first SIGINT or SIGTERM sets ``stop``, so that the work ends in order. A second one exits at once with
    128 plus its number. For commands only: a library must leave signals alone.
    """

    async def guarded() -> int:
        stop = asyncio.Event()

        def stopping(number: signal.Signals) -> None:
            if stop.is_set():
                os._exit(128 + number)
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping, number)
        return await work(stop)

    before = signal.getsignal(signal.SIGINT)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(guarded())
    finally:
        signal.signal(
            signal.SIGINT, before
        )  # the loop restores Python's own handler, which would print a traceback


async def run_until_ready(
    work: Callable[[Callable[[], None]], Awaitable[T]], *, stop: asyncio.Event
) -> T | None:
    """Run ``work(ready)``; if ``stop`` is set before it has called ``ready``, cancel it and return None.

    For work that checks ``stop`` by itself once it is ready. Raises what the work raises.
    """
    ready = asyncio.Event()

    async def working() -> T:
        return await work(ready.set)

    task = asyncio.create_task(working())
    waits = [asyncio.create_task(event.wait()) for event in (stop, ready)]
    try:
        await asyncio.wait([task, *waits], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set() and not ready.is_set():
            task.cancel()
            await asyncio.wait([task])
            return None if task.cancelled() else task.result()
        return await task
    finally:
        for each in (task, *waits):
            await cancelled(each)


async def stopped_within(stop: asyncio.Event, *, seconds: float) -> bool:
    """Wait for ``seconds``; return True as soon as ``stop`` is set, else False."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await stop.wait()
    return stop.is_set()

"""The event loop of our processes: uvloop where it runs, and signals that ask it to stop."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A fresh event loop."""
    if sys.platform != "win32":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run_until_stopped(work: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run ``work(stop)`` and return its exit code.

    A first SIGINT or SIGTERM sets ``stop``, so that it ends in order; a second one exits at once, with 128
    plus its number. For commands only: a library leaves signals alone.
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

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(guarded())


async def stopped_within(stop: asyncio.Event, *, seconds: float) -> bool:
    """Wait for ``seconds``; True at once when ``stop`` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, seconds)):
            await stop.wait()
    return stop.is_set()

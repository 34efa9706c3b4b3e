"""Child side of a demo process: it reports on stdout, and ends with the process that started it."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from unstale_worker.demo.reports import Report, encode
from unstale_worker.runtime.event_loop import new_event_loop

HARD_AFTER: Final = 5.0
"""Seconds a child may take to end after its parent has gone."""


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run ``main(stop)``; ``stop`` is set when stdin ends, also if the parent was killed."""
    # Ctrl-C is for the parent, which ends its children in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def guarded() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        threading.Thread(target=_watch_parent, args=(loop, stop), daemon=True).start()
        await main(stop)

    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(guarded())
    except BrokenPipeError:
        os._exit(1)


def send(report: Report) -> None:
    """Send a report to the parent; raises `BrokenPipeError` if it has gone."""
    sys.stdout.buffer.write(encode(report))
    sys.stdout.buffer.flush()


def _watch_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    try:
        loop.call_soon_threadsafe(stop.set)
    except RuntimeError:
        return  # the loop has already ended
    threading.Event().wait(HARD_AFTER)
    os._exit(1)

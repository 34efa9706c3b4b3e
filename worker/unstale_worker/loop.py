"""The event loop of our processes: uvloop where it runs."""

import asyncio
import sys


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A fresh event loop."""
    if sys.platform != "win32":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()

"""Tells a worker that stands by which loaders it could not call if it led."""

import asyncio
import threading
from contextlib import suppress

import structlog

from unstale.errors import RuleError
from unstale_worker.refresh.python_loader import mistakes
from unstale_worker.rules import Rules

log = structlog.get_logger("unstale.refresh")


async def look_for_loaders(rules: Rules) -> None:
    """Import the Python loaders and warn of each that is not there, as a leader does when it begins.

    In a thread: a module that takes long to import, or never ends, must not keep the worker from leading. In
    one that nobody waits for, as the loop does for its own: nor must it keep the worker from ending.
    """
    if not rules.refreshes:
        return
    loop = asyncio.get_running_loop()
    looked: asyncio.Future[list[RuleError]] = loop.create_future()

    def tell(found: list[RuleError]) -> None:
        if not looked.done():
            looked.set_result(found)

    def look() -> None:
        found = mistakes(rules)
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=look, name="unstale-loaders", daemon=True).start()
    for mistake in await looked:
        log.warning("this standby could not call a loader if it led", problem=str(mistake))

"""Warns on a standby of Python loaders that it could not call if it led."""

import structlog

from unstale_worker.refresh.python.find_loaders import mistakes
from unstale_worker.rules import Rules
from unstale_worker.runtime.daemon_call import call_in_daemon_thread

log = structlog.get_logger("unstale.refresh")


async def look_for_loaders(rules: Rules) -> None:
    """Import the Python loaders and warn of each that cannot be used, as a leader does when it begins.

    Runs in a thread: a module that never finishes importing must not keep the worker from leading.
    """
    if not rules.refreshes:
        return
    for mistake in await call_in_daemon_thread(lambda: mistakes(rules), name="unstale-loaders"):
        log.warning("this standby could not call a loader if it led", problem=str(mistake))

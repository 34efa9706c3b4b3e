"""Warns on a standby of Python loaders that it could not call if it led."""

import structlog

from unstale.settings import WorkerSettings
from unstale_worker.refresh.python.loader_calls import mistakes
from unstale_worker.rules import Rules

log = structlog.get_logger("unstale.refresh")


async def look_for_loaders(settings: WorkerSettings, rules: Rules) -> None:
    """Import the Python loaders and warn of each that cannot be used, as a leader does when it begins."""
    for mistake in await mistakes(settings, rules):
        log.warning("this standby could not call a loader if it led", problem=str(mistake.error))

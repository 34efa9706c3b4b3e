"""Health checks of the dependencies in use, at jittered intervals."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from unstale.companion.pools.dependency import Dependency
from unstale.companion.pools.vitals import State

logger = logging.getLogger("unstale")

CHECK_SECONDS: Final = 5.0
"""Seconds; a dependency that takes longer to answer counts as failing."""
JITTER: Final = 0.2
"""Share by which an interval is longer or shorter, so that many instances do not check at the same moment."""


async def monitor(dependencies: Callable[[], Iterable[Dependency]], *, interval: float) -> None:
    """Check every ``interval`` seconds, for ever, each dependency that answered no request meanwhile."""
    known: dict[str, State] = {}
    while True:
        await asyncio.sleep(interval * random.uniform(1 - JITTER, 1 + JITTER))
        current = tuple(dependencies())
        async with asyncio.TaskGroup() as group:
            for dependency in current:
                if _silent(dependency, interval):
                    group.create_task(check(dependency), name=f"unstale-pool-check-{dependency.name}")
        for dependency in current:
            _tell(dependency, known)


async def check(dependency: Dependency) -> None:
    """Check one dependency; the result is recorded in its vitals, and nothing is raised."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await dependency.check()
    except TimeoutError as error:
        dependency.vitals.failed(error)
    except Exception as error:
        if dependency.alive:  # otherwise it was closed while the check ran
            dependency.vitals.refused(type(error).__name__)


def _silent(dependency: Dependency, interval: float) -> bool:
    report = dependency.vitals.report(in_flight=0)
    heard = report.seconds_since_answer
    return report.state is not State.HEALTHY or heard is None or heard >= interval * (1 - JITTER)


def _tell(dependency: Dependency, known: dict[str, State]) -> None:
    report = dependency.vitals.report(in_flight=0)
    before, known[dependency.name] = known.get(dependency.name, State.UNKNOWN), report.state
    if report.state is State.FAILING and before is not State.FAILING:
        logger.warning("%s is failing: %s", dependency.name, report.last_error)
    elif report.state is State.HEALTHY and before is State.FAILING:
        logger.info("%s answers again", dependency.name)

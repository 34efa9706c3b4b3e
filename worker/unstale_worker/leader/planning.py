"""Plans what one page of the outbox invalidates."""

import logging
from typing import Final, Protocol

from unstale_worker.rules import Plan, Renewal, Rules
from unstale_worker.runtime.slices import Slices
from unstale_worker.sources import Page, WatchVersion

ENTRIES_A_SLICE: Final = 256
ROWS_A_SLICE: Final = 2_000
"""A few milliseconds of work, after which other tasks may run."""

logger = logging.getLogger("unstale.planning")  # an agent process plans too, and may lack structlog


class Versions(Protocol):
    """Looks up what each version of a watch writes; a `Source` does."""

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        """See `Source.watch_version`."""
        ...


async def plan_page(page: Page, rules: Rules, versions: Versions) -> Plan:
    """Plan what the entries of ``page`` invalidate, without running fan-out queries. Raises `Unavailable`.

    Entries of one watch version are planned together, so the cost is per row and not per entry. Other tasks
    run in between, as a page of many rows takes longer than the leader's lease lives on a busy machine.
    """
    plan = Plan()
    together: dict[tuple[int, int], list[str | None]] = {}
    whole: set[tuple[int, int]] = set()
    slices = Slices()
    for number, (watch, version, keys) in enumerate(page.entries):
        if number % ENTRIES_A_SLICE == 0:
            await slices.pause()
        if keys is None:
            whole.add((watch, version))
        elif (flat := together.get((watch, version))) is None:
            together[watch, version] = list(keys)
        else:
            flat.extend(keys)
    for key in whole | together.keys():
        written = await versions.watch_version(*key)
        if written is None:
            logger.error("an outbox entry names the unknown watch %d; dropping every owned key", key[0])
            plan.patterns.update(rules.patterns)
            continue
        table = (written.schema, written.table, written.key_columns)
        if key in whole:
            rules.plan(*table, None, plan)
        if key in together:
            flat = together[key]
            step = max(1, len(written.key_columns)) * ROWS_A_SLICE
            for start in range(0, len(flat), step):
                rules.plan(*table, flat[start : start + step], plan)
                await slices.pause()
    return plan


async def renewals_of(plan: Plan, rules: Rules) -> dict[str, Renewal]:
    """Return how the keys of ``plan`` are refreshed; other tasks run in between."""
    found: dict[str, Renewal] = {}
    if rules.refreshes:
        slices, keys = Slices(), list(plan.keys)
        for start in range(0, len(keys), ROWS_A_SLICE):
            found |= rules.renewals(keys[start : start + ROWS_A_SLICE], plan.purged)
            await slices.pause()
    return found

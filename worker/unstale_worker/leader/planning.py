"""Plans what one page of the outbox invalidates."""

import logging
from typing import Protocol

from unstale_worker.rules import Plan, Rules
from unstale_worker.sources import Page, WatchVersion

logger = logging.getLogger("unstale.planning")  # an agent process plans too, and may lack structlog


class Versions(Protocol):
    """Looks up what each version of a watch writes; a `Source` does."""

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        """See `Source.watch_version`."""
        ...


async def plan_page(page: Page, rules: Rules, versions: Versions) -> Plan:
    """Plan what the entries of ``page`` invalidate, without running fan-out queries. Raises `Unavailable`.

    Entries of one watch version are planned together, so the cost is per row and not per entry.
    """
    plan = Plan()
    together: dict[tuple[int, int], list[str | None]] = {}
    whole: set[tuple[int, int]] = set()
    for watch, version, keys in page.entries:
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
            rules.plan(*table, together[key], plan)
    return plan

"""Publishes the result of an audit in Redis while it runs; see `unstale_worker.observe.audit_result`."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.protocol.names import Names
from unstale.runtime.cancellation import background
from unstale.settings import WorkerSettings
from unstale_worker.audit.auditor import Auditor
from unstale_worker.audit.judging import Outcome
from unstale_worker.observe.audit_result import (
    KEPT,
    MOST_LINES,
    MOST_TEXT,
    MOST_VIOLATIONS,
    Published,
    PublishedLine,
    PublishedViolation,
)
from unstale_worker.redis.applier import unavailable
from unstale_worker.redis.client import open_redis
from unstale_worker.runtime.logs import get_logger

EVERY: Final = 5.0
"""Seconds between two results."""

log = get_logger("unstale.audit")


def published(auditor: Auditor, *, ended: bool = False) -> Published:
    """Return the result of an auditor in this process."""
    tally, violations = auditor.tally, auditor.violations
    total, known = tally.total(), tally.seconds - tally.unknown
    return Published(
        by=f"{socket.gethostname()}:{os.getpid()}",
        ended=ended,
        seconds=round(tally.seconds, 1),
        bound_s=tally.bound,
        lines=tuple(
            PublishedLine(
                table=table[:MOST_TEXT],
                delay=delay,
                compared=line.compared,
                outcomes={outcome.value: line.outcomes[outcome] for outcome in Outcome},
                nines=line.nines,
            )
            for (table, delay), line in sorted(tally.lines.items())[:MOST_LINES]
        ),
        compared=total.compared,
        equal=total.outcomes[Outcome.EQUAL],
        wrong=total.outcomes[Outcome.WRONG],
        nines=total.nines,
        promised_within=min(1.0, tally.promised_within / known) if known > 0 else None,
        seen_within=min(1.0, tally.seen_within / known) if known > 0 else None,
        worst_promised_s=round(tally.worst_promised, 3),
        worst_seen_s=round(tally.worst_seen, 3),
        broken_promises=tally.broken_promises,
        outages=tally.outages,
        violation_count=violations.count,
        violations_lasting=len(violations.lasting),
        violations=tuple(
            PublishedViolation(
                key=each.key[:MOST_TEXT],
                table=each.table[:MOST_TEXT],
                delay=each.delay,
                fields=tuple(name[:MOST_TEXT] for name in each.fields[:MOST_VIOLATIONS]),
                found_ms=each.found_ms,
                lasted_s=round(each.lasted_s, 3),
                ended=each.ended,
            )
            for each in reversed(violations.found[-MOST_VIOLATIONS:])
        ),
    )


@asynccontextmanager
async def publishing(settings: WorkerSettings, auditor: Auditor) -> AsyncIterator[None]:
    """Keep the result in Redis during the body, and for `KEPT` seconds after it."""
    async with open_redis(settings, connections=1) as redis:
        publisher = _Publisher(redis, settings.names, auditor)
        async with background(publisher.run()):
            yield
        await publisher.publish(ended=True)


class _Publisher:
    def __init__(self, redis: Redis, names: Names, auditor: Auditor) -> None:
        self._redis, self._names, self._auditor = redis, names, auditor
        self._away = False

    async def run(self) -> None:
        while True:
            await self.publish()
            await asyncio.sleep(EVERY)

    async def publish(self, *, ended: bool = False) -> None:
        result = published(self._auditor, ended=ended).model_dump_json()
        try:
            await self._redis.set(self._names.audit, result, px=round(KEPT * 1000))
            self._away = False
        except RedisError as error:
            if not self._away:
                log.warning("the result cannot be published", error=str(unavailable(error)))
            self._away = True

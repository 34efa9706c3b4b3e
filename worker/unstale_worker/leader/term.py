"""One leadership of a worker, from the lease it has acquired until it is lost or given up."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from unstale.errors import LeadershipLost
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.runtime.cancellation import run_cancellable
from unstale.settings import WorkerSettings
from unstale_worker.leader.leadership import Leadership
from unstale_worker.leader.pipeline import Pipeline
from unstale_worker.leader.purge import keep_purging
from unstale_worker.observe.worker_health import WorkerHealth
from unstale_worker.redis.applier import Applier
from unstale_worker.refresh.coordinator import Refresher
from unstale_worker.rules import Rules
from unstale_worker.runtime.retry import retry
from unstale_worker.sources import Source
from unstale_worker.sources.wakeups import WakeUps

log = structlog.get_logger("unstale.worker")


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends a worker connects: the database with its wake-ups, and each partition of Redis."""

    source: Source
    wakeups: WakeUps
    multiplexers: Sequence[Multiplexer]


class Term:
    """Four tasks that run while the worker leads: renew the lease, apply changes, purge, refresh.

    Example:
        >>> await Term(ends, leadership, settings, rules, health).run(stop)
    """

    def __init__(
        self, ends: Ends, leadership: Leadership, settings: WorkerSettings, rules: Rules, health: WorkerHealth
    ) -> None:
        self._ends, self._leadership = ends, leadership
        self._settings, self._rules, self._health = settings, rules, health
        self._appliers = [
            Applier(
                multiplexer,
                each.names,
                fence=leadership.fence,
                log_max_bytes=settings.log_max_bytes,
                script_keys=settings.script_keys,
            )
            for multiplexer, each in zip(ends.multiplexers, settings.in_partitions, strict=True)
        ]
        self._refresher = Refresher(
            settings, rules, health.refreshed,
            session=leadership.session_name, failed=health.counters.failed,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Term fence={self._leadership.fence}>"

    async def run(self, stop: asyncio.Event) -> None:
        """Lead until ``stop`` is set or the lease is lost; wait for servers that do not answer meanwhile.

        Raises `LeadershipLost` in an exception group.
        """
        source, leadership = self._ends.source, self._leadership
        try:
            async with (
                self._ends.wakeups.term(leadership.session_name),
                asyncio.TaskGroup() as group,
            ):
                purging = partial(
                    keep_purging, source.sibling(), leadership, self._settings, self._health.counters
                )
                besides = [
                    group.create_task(run_cancellable(leadership.keep), name="lease"),
                    group.create_task(run_cancellable(purging), name="purge"),
                    group.create_task(run_cancellable(self._refresher.run), name="refresh"),
                ]
                await retry(
                    lambda: self._apply_changes(stop),
                    stop=stop, fatal=(LeadershipLost,), failed=self._health.failed,
                )  # fmt: skip
                for task in besides:
                    task.cancel()
        finally:
            await source.end_term()

    async def _apply_changes(self, stop: asyncio.Event) -> None:
        """Run a fresh pipeline until ``stop`` is set; after any error it is made again."""
        source, leadership = self._ends.source, self._leadership
        if ended := await source.begin_term(leadership.consumer, leadership.fence):
            log.info("ended sessions of an older leader", sessions=ended)
        pipeline = Pipeline(
            source, self._appliers, self._rules, self._ends.wakeups, self._settings, self._health,
            on_keys=self._refresher.hint,
        )  # fmt: skip
        await pipeline.run(stop)

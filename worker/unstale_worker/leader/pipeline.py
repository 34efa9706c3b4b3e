"""The leader's loop: read changes, plan what they concern, apply it, store the position, again and again."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import reduce
from itertools import islice
from typing import Final

import structlog

from unstale.errors import LeadershipLost, PositionMoved, RedisUnavailable
from unstale.protocol.messages import Snapshot
from unstale.runtime.cancellation import cancelled
from unstale.settings import WorkerSettings
from unstale_worker.captures.monitor import CaptureMonitor
from unstale_worker.leader.partition import Partition
from unstale_worker.leader.planning import Share, plan_page, renewals_of, shares_of
from unstale_worker.leader.poll_policy import PollPolicy
from unstale_worker.leader.reasons import BatchReasons, summed_up
from unstale_worker.observe.worker_health import WorkerHealth
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import Standing
from unstale_worker.rules import Plan, Rules
from unstale_worker.runtime.retry import retry
from unstale_worker.sources import Page, Source, WatchState
from unstale_worker.sources.wakeups import WakeUps

log = structlog.get_logger("unstale.pipeline")
DEBUG: Final = logging.getLogger("unstale.pipeline")
SHOWN_KEYS: Final = 5
"""Keys of a batch in the debug log."""
BEGIN_TOGETHER: Final = 2.0
"""Seconds for which partitions wait for each other when none is ready."""

TIMER_RESOLUTION: Final = 0.001
"""Seconds. Event loops count in milliseconds, so a shorter pause would become longer; it is left out."""


class Pipeline:
    """A leader's work on one database and one Redis.

    The outbox is read once for all partitions of the Redis, from a position that each of them has passed. A
    page is applied at the same time in all partitions that it concerns. A partition that fails begins again
    beside the others, and takes part from the next read on: see `Partition`.

    Nothing that matters is only in memory. After any other error a fresh pipeline reads the state and
    continues.

    Example:
        >>> pipeline = Pipeline(source, [applier], rules, wakeups, settings, health)
        >>> await pipeline.run(asyncio.Event())

    Args:
        source: Source of the changes.
        appliers: Where they are applied, one for each partition.
        rules: Say what a change concerns.
        wakeups: Hints that something may be new.
        settings: Of these, how often to poll and to publish a watermark.
        health: Where counters and states are kept for people.
        on_keys: Called after keys were invalidated: some of them may have to be refreshed.
    """

    def __init__(
        self,
        source: Source,
        appliers: Sequence[Applier],
        rules: Rules,
        wakeups: WakeUps,
        settings: WorkerSettings,
        health: WorkerHealth,
        on_keys: Callable[[], object] = lambda: None,
    ) -> None:
        self._source, self._rules, self._wakeups = source, rules, wakeups
        self._health, self._counters, self._on_keys = health, health.counters, on_keys
        self._interval = settings.watermark_interval
        self._poll = PollPolicy(
            poll_min=max(settings.poll_min, source.least_pause),
            poll_max=max(settings.poll_max, 10 * source.least_pause),
        )
        self._captures = CaptureMonitor(
            source,
            rules,
            logger=log,
            known=health.coverage,
            report=health.covered,
            found=self._captures_found,
        )
        self._partitions = [
            Partition(applier, source, rules, self._captures, each, health, self._owe)
            for applier, each in zip(appliers, settings.in_partitions, strict=True)
        ]
        self._single = len(self._partitions) == 1
        self._taking_part: list[Partition] = []
        self._position = ""  # all that take part have applied everything up to it
        self._read_before = ""
        self._annotations: dict[int, Mapping[str, object]] = {}
        self._woken = False
        self._committed_after = self._applied_at = self._counters.caught_up_at

    async def run(self, stop: asyncio.Event) -> None:
        """Run cycles until ``stop`` is set, and finish the batch at hand; raises what a cycle raises."""
        try:
            await self._cycles(stop)
        finally:
            for partition in self._partitions:
                await partition.close()
        await self._wakeups.end_sleep()

    async def _cycles(self, stop: asyncio.Event) -> None:
        hinted = False
        while not stop.is_set():
            asleep = self._wakeups.asleep
            hinted = await self._wakeups.wait(0) or hinted  # a hint is used up by the read that follows it
            self._woken = hinted and asleep
            began = time.monotonic()
            found = await self.cycle()
            if self._single or len(self._taking_part) == len(self._partitions):
                self._health.cycled()
            now = time.monotonic()
            self._poll.note(found, now=now, took=now - began)
            if not hinted:
                self._wakeups.report_read(found > 0, asleep=asleep)
            hinted = await self._rest(found, hinted)

    async def cycle(self) -> int:
        """Bring Redis up to now; returns how many entries were new."""
        await self._begin()
        if not self._taking_part:
            return 0
        self._committed_after = time.monotonic() if self._woken else self._applied_at
        began_there, *_ = [each.read_begins() for each in self._taking_part]
        page = await self._source.read(self._position)
        if not await self._continues(page):
            return 0
        found, began, prefetched = 0, page.began, None
        try:
            while True:
                found += len(page.entries)
                self._captures.noticed(page)
                if page.more:
                    assert page.cursor is not None
                    prefetched = asyncio.create_task(self._source.read(self._position, page.cursor))
                await self._apply(page, None if page.more else began, read_at=began_there)
                self._position = page.position
                if not self._taking_part:
                    return found
                if prefetched is None:
                    break
                page, prefetched = await prefetched, None
                if not await self._continues(page):  # between two pages too: the purge, or another server
                    return found
                await self._each(Partition.between_pages)
        finally:
            if prefetched is not None:
                await cancelled(prefetched)
        if uncaptured := await self._captures.check_if_due():
            self._owe(None, uncaptured)
        took_part = len(self._taking_part)
        await self._each(lambda each: each.finish(page, each.seen(page, began=began)))
        self._read_before, self._annotations = began_there, {}
        self._applied_at = began
        if took_part == len(self._partitions):
            self._counters.caught_up(began)
        return found

    # --- which partitions take part ------------------------------------------------------------

    async def _begin(self) -> None:
        """Let every partition begin that is not ready, and let those that are take part.

        A single one is waited for, and raises its errors. Several are tried again beside each other.
        """
        if self._single:
            if not self._partitions[0].ready:
                await self._partitions[0].begin()
        else:
            for each in self._taking_part:
                each.reconnect_if_due()
            begun = [self._beside(each) for each in self._partitions if not each.ready]
            if len(begun) == len(self._partitions):
                await asyncio.wait(begun, timeout=BEGIN_TOGETHER)
            for task in begun:
                if task.done():
                    task.result()  # raises if this worker does not lead any more
        ready = [each for each in self._partitions if each.ready]
        if joining := [each for each in ready if each not in self._taking_part]:
            texts = {each.state.position for each in joining if each.state is not None}
            if self._taking_part:
                texts.add(self._position)
            position, *others = map(Snapshot.parse, texts)
            self._position = str(reduce(Snapshot.meet, others, position)) if others else texts.pop()
        self._taking_part = ready

    def _beside(self, partition: Partition, why: Standing | None = None) -> "asyncio.Task[None]":
        """Return the task that makes this partition ready, beside the cycles."""
        return partition.beginning(
            lambda: retry(
                lambda: partition.begin(why),
                failed=self._health.failed,
                fatal=(LeadershipLost,),
                logger=log,
                event=f"partition {partition.label} begins again",
            )
        )

    async def _continues(self, page: Page) -> bool:
        """Return True if all may continue with ``page``; else let those that may not recover."""
        taking_part = [(each, each.judge(page)) for each in self._taking_part]
        if all(verdict is Standing.READY for _, verdict in taking_part):
            return True
        self._taking_part = []  # they join again at the next read, each at its own position
        for partition, verdict in taking_part:
            if verdict is not Standing.READY and partition.position != self._position:
                verdict = partition.judge(await self._source.read(partition.position))
            if verdict is Standing.READY:
                continue
            if self._single:
                await partition.begin(verdict)
            else:
                partition.lost()
                self._beside(partition, verdict)
        return False

    async def _each(self, step: Callable[[Partition], Awaitable[None]]) -> None:
        """Take a step in all partitions at the same time; one that fails takes part no longer."""
        partitions = self._taking_part
        if self._single:
            for partition in partitions:
                await step(partition)
        else:
            results = await asyncio.gather(*map(step, partitions), return_exceptions=True)
            for partition, error in zip(partitions, results, strict=True):
                if isinstance(error, RedisUnavailable | PositionMoved):
                    partition.lost()
                    log.warning("a partition begins again", partition=partition.label, error=str(error))
                elif error is not None:
                    raise error
        self._taking_part = [each for each in partitions if each.ready]

    def _owe(self, but: Partition | None, patterns: Collection[str]) -> None:
        for partition in self._partitions:
            if partition is not but:
                partition.owe(patterns)

    def _captures_found(self, states: Sequence[WatchState]) -> None:
        for partition in self._partitions:
            partition.in_force.former.captured(states)

    # --- one page -------------------------------------------------------------------------------

    async def _apply(self, page: Page, began: float | None, *, read_at: str) -> None:
        """Apply one page; ``began`` is when the read of its batch began, if the page is the last of it."""
        if not page.entries and page.position == self._position:
            return
        plans: dict[object, tuple[Plan, Sequence[Share], BatchReasons]] = {}
        of: dict[Partition, tuple[Plan, Share, BatchReasons]] = {}
        numbers = {each: number for number, each in enumerate(self._partitions)}
        for each in self._taking_part:
            rules = each.in_force.rules
            same = (rules.hash, rules.kept)
            if same not in plans:
                plan = await self._plan(page, rules)
                renewals = await renewals_of(plan, self._rules)
                shares = await shares_of(plan, renewals, len(self._partitions))
                reasons = BatchReasons(page, plan, read_at=read_at, read_before=self._read_before)
                plans[same] = plan, shares, reasons
            plan, shares, reasons = plans[same]
            of[each] = plan, shares[numbers[each]], reasons

        async def apply(partition: Partition) -> None:
            plan, share, reason = of[partition]
            if not (self._single or share.keys or plan.patterns):
                partition.watermarks.change_applied(elsewhere=True)
                return
            await partition.apply(
                page,
                keys=share.keys,
                patterns=sorted(plan.patterns),
                seen=None if began is None else partition.seen(page, began=began),
                renewals=share.renewals,
                reason=reason,
            )

        await self._each(apply)
        plan, *_ = next(iter(plans.values()))
        if page.entries and self._committed_after > 0:
            self._counters.latency.add(time.monotonic() - self._committed_after, len(page.entries))
        if DEBUG.isEnabledFor(logging.DEBUG) and page.entries:
            changes, first = await summed_up(page, self._source), list(islice(plan.keys, SHOWN_KEYS))
            patterns = sorted(plan.patterns)[:SHOWN_KEYS]
            log.debug("applied", changes=changes, keys=len(plan.keys), first=first, patterns=patterns)
        if plan.annotations:  # the last transaction may go on in the next page
            last = page.xids[-1] if page.xids else 0
            self._annotations = {xid: noted for xid, noted in plan.annotations.items() if xid == last}
        self._counters.entries += len(page.entries)
        self._counters.batches += bool(page.entries)
        self._counters.keys += len(plan.keys)
        self._counters.patterns += len(plan.patterns)
        if plan.keys:
            self._on_keys()

    async def _plan(self, page: Page, rules: Rules) -> Plan:
        plan = await plan_page(page, rules, self._source)
        if plan.queries:
            for failure in await self._source.run_queries(self._rules, plan):
                self._counters.failed(str(failure))
                log.error("a fan-out query failed; its patterns were invalidated", problem=str(failure))
        if self._annotations:
            plan.annotations = {**self._annotations, **plan.annotations}
        return plan

    # --- between two cycles ---------------------------------------------------------------------

    async def _rest(self, found: int, hinted: bool) -> bool:
        """Wait for the next reason to read; returns True if it was a hint."""
        if delayed := await self._wakeups.delays_commits():
            self._poll.stay_awake()
        if delayed or self._poll.must_wake:
            await self._wakeups.end_sleep()
        if hinted and not found:
            # Any role may send NOTIFY, so hints that lead to nothing cause no more reads than polling would.
            await asyncio.sleep(min(self._poll.pause, self._due_in()))
        if self._wakeups.asleep:
            return await self._wait(self._due_in())
        if not found and self._poll.may_sleep and await self._wakeups.try_sleep():
            return False  # read once more before sleeping
        return await self._wait(min(self._poll.pause, self._due_in()))

    def _due_in(self) -> float:
        """Return the seconds until a watermark is due."""
        return min((each.watermarks.due_in() for each in self._taking_part), default=self._interval)

    async def _wait(self, seconds: float) -> bool:
        hinted = seconds >= TIMER_RESOLUTION and await self._wakeups.wait(seconds)
        if not hinted:  # a hint is read at once; without one, other tasks come first
            await asyncio.sleep(0)
        return hinted

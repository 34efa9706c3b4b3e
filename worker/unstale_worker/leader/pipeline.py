"""The leader's loop: read changes, plan what they concern, apply it, store the position, again and again."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Final, assert_never

import structlog

from unstale.protocol.reasons import Kind
from unstale.runtime.cancellation import cancelled
from unstale.settings import WorkerSettings
from unstale_worker.captures.monitor import CaptureMonitor
from unstale_worker.leader.planning import plan_page, renewals_of
from unstale_worker.leader.poll_policy import PollPolicy
from unstale_worker.leader.reasons import BatchReasons, summed_up
from unstale_worker.leader.rules_in_force import RulesInForce
from unstale_worker.leader.watermarks import Watermarks
from unstale_worker.observe.worker_health import WorkerHealth
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.script_batches import always
from unstale_worker.redis.state import Adopting, Seen, Standing, StoredState, standing, standing_after_read
from unstale_worker.rules import Rules
from unstale_worker.sources import Page, Source
from unstale_worker.sources.wakeups import WakeUps

log = structlog.get_logger("unstale.pipeline")
DEBUG: Final = logging.getLogger("unstale.pipeline")
SHOWN_KEYS: Final = 5
"""Keys of a batch in the debug log."""

TIMER_RESOLUTION: Final = 0.001
"""Seconds. Event loops count in milliseconds, so a shorter pause would become longer; it is left out."""


class Pipeline:
    """A leader's work on one database and one Redis.

    Nothing that matters is only in memory. After any error a fresh pipeline reads the state and continues.

    Example:
        >>> pipeline = Pipeline(source, applier, rules, wakeups, settings, health)
        >>> await pipeline.run(asyncio.Event())

    Args:
        source: Source of the changes.
        applier: Where they are applied.
        rules: Say what a change concerns.
        wakeups: Hints that something may be new.
        settings: Of these, how often to poll and to publish a watermark.
        health: Where counters and states are kept for people.
        on_keys: Called after keys were invalidated: some of them may have to be refreshed.
    """

    def __init__(
        self,
        source: Source,
        applier: Applier,
        rules: Rules,
        wakeups: WakeUps,
        settings: WorkerSettings,
        health: WorkerHealth,
        on_keys: Callable[[], object] = lambda: None,
    ) -> None:
        self._source, self._applier, self._rules, self._wakeups = source, applier, rules, wakeups
        self._health, self._counters, self._on_keys = health, health.counters, on_keys
        self._poll = PollPolicy(
            poll_min=max(settings.poll_min, source.least_pause),
            poll_max=max(settings.poll_max, 10 * source.least_pause),
        )
        self._watermarks = Watermarks(applier, health.counters, interval=settings.watermark_interval)
        self._in_force = RulesInForce(applier, rules, settings)
        self._captures = CaptureMonitor(
            source,
            rules,
            logger=log,
            known=health.coverage,
            report=health.covered,
            found=self._in_force.former.captured,
        )
        self._publish_rules_at = 0.0
        self._read_before = ""
        self._annotations: dict[int, Mapping[str, object]] = {}
        self._woken = False
        self._committed_after = 0.0
        self._state: StoredState | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Run cycles until ``stop`` is set, and finish the batch at hand; raises what a cycle raises."""
        try:
            await self._cycles(stop)
        finally:
            await self._in_force.close()
        await self._wakeups.end_sleep()

    async def _cycles(self, stop: asyncio.Event) -> None:
        hinted = False
        while not stop.is_set():
            asleep = self._wakeups.asleep
            hinted = await self._wakeups.wait(0) or hinted  # a hint is used up by the read that follows it
            self._woken = hinted and asleep
            began = time.monotonic()
            found = await self.cycle()
            self._health.cycled()
            now = time.monotonic()
            self._poll.note(found, now=now, took=now - began)
            if not hinted:
                self._wakeups.report_read(found > 0, asleep=asleep)
            hinted = await self._rest(found, hinted)

    async def cycle(self) -> int:
        """Bring Redis up to now; returns how many entries were new."""
        state = self._state or await self._begin()
        self._state = None  # until this cycle has succeeded
        self._committed_after = time.monotonic() if self._woken else self._counters.caught_up_at
        primary_until = self._watermarks.primary_until
        began_there = self._applier.server_time()
        page = await self._source.read(state.position)
        verdict = standing_after_read(state, page)
        if verdict is not Standing.READY:
            await self._recover(state, verdict)
            return 0
        found, began, prefetched = 0, page.began, None
        try:
            while True:
                found += len(page.entries)
                self._captures.noticed(page)
                seen = None
                if page.more:
                    assert page.cursor is not None
                    prefetched = asyncio.create_task(self._source.read(state.position, page.cursor))
                else:
                    seen = Seen.of(page, began=began, primary_until=primary_until, began_there=began_there)
                state = await self._apply(state, page, seen, read_at=began_there)
                if prefetched is None:
                    break
                page, prefetched = await prefetched, None
                verdict = standing_after_read(state, page)
                if verdict is not Standing.READY:  # between two pages too: the purge, or another server
                    await self._recover(state, verdict)
                    return found
                await self._watermarks.publish_between_pages(state)
        finally:
            if prefetched is not None:
                await cancelled(prefetched)
        uncaptured, left = (
            await self._captures.check_if_due(),
            self._in_force.transition.due(time.monotonic()),
        )
        if patterns := uncaptured | left:
            await self._invalidate(state, page, patterns, Kind.CAPTURES if uncaptured else Kind.RULES)
        await self._in_force.shorten_if_due(state, page)
        self._watermarks.seen = seen
        self._read_before, self._annotations = began_there, {}
        self._counters.caught_up(began)
        await self._watermarks.publish_if_due(state)
        await self._keep_published(state)
        self._in_force.look_if_due()
        if not self._in_force.former.retires:  # else these are other rules, to be put in force
            self._state = state
        return found

    async def _keep_published(self, state: StoredState) -> None:
        """Publish the rules again if Redis lost them; looked at as often as a watermark is due."""
        now = time.monotonic()
        if now < self._publish_rules_at:
            return
        self._publish_rules_at = now + self._watermarks.interval
        if await self._applier.keep_published(state, self._in_force.encoded()):
            log.warning("Redis had lost the published rules; they are published again")

    async def _invalidate(
        self, state: StoredState, page: Page, patterns: Collection[str], kind: Kind
    ) -> None:
        """Invalidate patterns without a change that asks for it; the position does not move."""
        await self._applier.apply(
            state, page, keys=(), patterns=sorted(patterns), store=False,
            beside=self._rules.keeps_older, broken=self._captures.remembered(), reason=always(kind),
        )  # fmt: skip
        self._watermarks.change_applied()
        self._counters.patterns += len(patterns)

    async def _begin(self) -> StoredState:
        """Read the state, and settle what Redis alone can tell until changes can be applied."""
        while True:
            state = await self._applier.state()
            self._watermarks.primary_until = state.primary_until
            _, published = await self._in_force.follow()
            verdict = standing(state, rules=self._in_force.rules.hash)
            match verdict:
                case Standing.READY:
                    self._health.former = self._in_force.former.kept
                    if published:
                        self._captures.recall(state.broken)
                        self._in_force.lead(state)
                        return state
                    # The rules are the same, but the key is gone, or the types of columns have changed.
                    log.info("publishing the rules again; new epoch")
                    await self._applier.new_epoch(
                        state, published=self._in_force.encoded(), why="the rules were published again"
                    )
                    self._counters.epochs += 1
                case Standing.OTHER_RUN:
                    why = verdict.value
                    if state.unproved:
                        why = "Redis does not tell its run"
                        log.info("Redis does not tell if it is the same server; new epoch")
                    else:
                        log.warning("Redis is another server than before; new epoch", position=state.position)
                    await self._applier.new_epoch(state, why=why)
                    self._counters.epochs += 1
                case Standing.OTHER_RULES:
                    await self._adopt(state)
                case Standing.NO_POSITION | Standing.PURGED | Standing.OTHER_DATABASE | Standing.WENT_BACK:
                    await self._recover(state, verdict)
                case _:
                    assert_never(verdict)

    async def _adopt(self, state: StoredState) -> None:
        """Put these rules in force; drops all owned keys if it cannot be told which patterns changed."""
        page = await self._source.read(state.position)
        verdict = standing_after_read(state, page)
        if verdict is not Standing.READY:
            await self._recover(state, verdict)
        elif await self._in_force.adopt(state, page, await self._source.watch_states()):
            self._health.first_start = False
        else:
            await self._recover(state, Standing.OTHER_RULES)

    async def _recover(self, state: StoredState, why: Standing) -> None:
        """Drop every key that the rules own or owned, and begin a new epoch at a fresh snapshot."""
        published, _ = await self._in_force.follow()
        now, adopting = self._in_force.published, Adopting.read(state)
        patterns = {*now.patterns, *(published.patterns if published is not None else ())}
        patterns.update(adopting.patterns if adopting is not None else ())
        # Stale values may be left of rules that are not known any more.
        beside = published is None or published.keeps_older or now.keeps_older
        if self._health.first_start and why is Standing.NO_POSITION and state.untouched and published is None:
            log.info("first start; dropping all owned keys", patterns=len(patterns))
        else:
            log.warning("dropping all owned keys", why=why.value, patterns=len(patterns))
        self._health.first_start = False
        if why in (Standing.OTHER_DATABASE, Standing.WENT_BACK):
            await (
                self._captures.restored()
            )  # before the snapshot: later changes are captured, or said not to be
        self._watermarks.seen = await self._applier.recover(
            state,
            rules=now.hash,
            published=now.encode(),
            why=why.value,
            patterns=patterns,
            snapshot=lambda: self._source.read(None),
            beside=beside,
        )
        self._counters.recoveries += 1
        self._counters.epochs += 1
        if published is not None:
            self._in_force.transition.recovered(published, now, at=time.monotonic())

    async def _apply(self, state: StoredState, page: Page, seen: Seen | None, *, read_at: str) -> StoredState:
        """Apply one page. ``seen``, if the page is a batch's last, may be published in the same script."""
        moved = page.position != state.position
        if not page.entries and not moved:
            return state
        plan = await plan_page(page, self._in_force.rules, self._source)
        self._counters.entries += len(page.entries)
        if plan.queries:
            for failure in await self._source.run_queries(self._rules, plan):
                self._counters.failed(str(failure))
                log.error("a fan-out query failed; its patterns were invalidated", problem=str(failure))
        if self._annotations:
            plan.annotations = {**self._annotations, **plan.annotations}
        at = time.monotonic()
        joins = seen is not None and moved and self._watermarks.may_join()
        state, primary_until = await self._applier.apply(
            state,
            page,
            keys=plan.keys,
            patterns=sorted(plan.patterns),
            store=moved,
            seen=seen if joins else None,
            renewals=await renewals_of(plan, self._rules),
            beside=self._rules.keeps_older,
            reason=BatchReasons(page, plan, read_at=read_at, read_before=self._read_before),
        )
        if page.entries and self._committed_after > 0:
            self._counters.latency.add(time.monotonic() - self._committed_after, len(page.entries))
        if DEBUG.isEnabledFor(logging.DEBUG) and page.entries:
            changes, first = await summed_up(page, self._source), list(islice(plan.keys, SHOWN_KEYS))
            patterns = sorted(plan.patterns)[:SHOWN_KEYS]
            log.debug("applied", changes=changes, keys=len(plan.keys), first=first, patterns=patterns)
        if plan.annotations:  # the last transaction may go on in the next page
            last = page.xids[-1] if page.xids else 0
            self._annotations = {xid: noted for xid, noted in plan.annotations.items() if xid == last}
        if joins:
            self._watermarks.published(at, primary_until)
        elif page.entries:
            self._watermarks.change_applied()
        self._counters.batches += bool(page.entries)
        self._counters.keys += len(plan.keys)
        self._counters.patterns += len(plan.patterns)
        if plan.keys:
            self._on_keys()
        return state

    async def _rest(self, found: int, hinted: bool) -> bool:
        """Wait for the next reason to read; returns True if it was a hint."""
        if delayed := await self._wakeups.delays_commits():
            self._poll.stay_awake()
        if delayed or self._poll.must_wake:
            await self._wakeups.end_sleep()
        if hinted and not found:
            # Any role may send NOTIFY, so hints that lead to nothing cause no more reads than polling would.
            await asyncio.sleep(min(self._poll.pause, self._watermarks.due_in()))
        if self._wakeups.asleep:
            return await self._wait(self._watermarks.due_in())
        if not found and self._poll.may_sleep and await self._wakeups.try_sleep():
            return False  # read once more before sleeping
        return await self._wait(min(self._poll.pause, self._watermarks.due_in()))

    async def _wait(self, seconds: float) -> bool:
        hinted = seconds >= TIMER_RESOLUTION and await self._wakeups.wait(seconds)
        if not hinted:  # a hint is read at once; without one, other tasks come first
            await asyncio.sleep(0)
        return hinted

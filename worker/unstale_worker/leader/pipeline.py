"""One cycle: read → plan → apply → store position; and the loop of cycles of a leader."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, assert_never

import structlog

from unstale.errors import MessageError
from unstale.protocol.messages import PublishedRules
from unstale_worker.leader.planning import plan_page
from unstale_worker.leader.poll_policy import Pace
from unstale_worker.observe.status import Counters
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import Seen, Standing, State, standing, standing_after_read
from unstale_worker.rules import Rules
from unstale_worker.sources import Page, Source
from unstale_worker.sources.wakeups import WakeUps

log = structlog.get_logger("unstale.pipeline")

WATERMARK_SPACING: Final = 0.005
"""Seconds between two watermarks under load: each costs every agent a message."""

TIMER_RESOLUTION: Final = 0.001
"""Seconds; event loops count in milliseconds, so a shorter pause would be a longer one: it is left out."""


class Pipeline:
    """A leader's work on one database and one Redis.

    Nothing that matters lives only here: after any error the state is read again, and a fresh pipeline can
    go on where another stopped.

    Example:
        >>> pipeline = Pipeline(source, applier, rules, wakeups, counters, pace=pace, interval=0.5)
        >>> await pipeline.run(asyncio.Event())
    """

    def __init__(
        self,
        source: Source,
        applier: Applier,
        rules: Rules,
        wakeups: WakeUps,
        counters: Counters,
        *,
        pace: Pace,
        interval: float,
        healthy: Callable[[], None] = lambda: None,
        first: bool = False,
    ) -> None:
        """``healthy`` is called after each cycle; ``first``: this process has not known a position before."""
        self._healthy, self._first = healthy, first
        self._source, self._applier, self._rules, self._wakeups = source, applier, rules, wakeups
        self._counters, self._pace, self._interval = counters, pace, interval
        self._state: State | None = None
        self._seen: Seen | None = None
        self._primary_until = ""
        self._said_at = 0.0
        self._unsaid = False

    async def run(self, stop: asyncio.Event) -> None:
        """Cycle until ``stop`` is set, then finish the batch at hand; raises what a cycle raises."""
        while not stop.is_set():
            before = self._wakeups.asleep
            hinted = await self._wakeups.wait(0)
            found = await self.cycle()
            self._healthy()
            self._pace.saw(found, now=time.monotonic())
            if not hinted:
                self._wakeups.unannounced(found > 0, asleep=before)
            await self._rest(found)
        await self._wakeups.awake()

    async def cycle(self) -> int:
        """Bring Redis up to now; returns how many entries were new."""
        state = self._state or await self._begin()
        self._state = None  # until this cycle has succeeded
        primary_until = self._primary_until
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
                seen = None
                if page.more:
                    assert page.cursor is not None
                    prefetched = asyncio.ensure_future(self._source.read(state.position, page.cursor))
                else:
                    seen = Seen.of(page, began=began, primary_until=primary_until, began_there=began_there)
                state = await self._apply(state, page, seen)
                if prefetched is None:
                    break
                page, prefetched = await prefetched, None
                verdict = standing_after_read(state, page)
                if verdict is not Standing.READY:  # between two pages too: the purge, or another server
                    await self._recover(state, verdict)
                    return found
                await self._say(state, least=self._interval)
        finally:
            if prefetched is not None:
                prefetched.cancel()
                await asyncio.wait([prefetched])
        self._seen = seen
        self._counters.caught_up(began)
        await self._say(state, least=WATERMARK_SPACING if self._unsaid else self._interval)
        self._state = state
        return found

    async def _begin(self) -> State:
        """Read the state and settle what Redis alone can tell, until changes can be applied."""
        while True:
            state = await self._applier.state()
            self._primary_until = state.primary_until
            verdict = standing(state, rules=self._rules.hash)
            match verdict:
                case Standing.READY:
                    return state
                case Standing.OTHER_RUN:
                    log.warning("Redis is another server than before: new epoch", position=state.position)
                    await self._applier.new_epoch(state)
                    self._counters.epochs += 1
                case (
                    Standing.NO_POSITION
                    | Standing.OTHER_RULES
                    | Standing.PURGED
                    | Standing.OTHER_DATABASE
                    | Standing.WENT_BACK
                ):
                    await self._recover(state, verdict)
                case _:
                    assert_never(verdict)

    async def _recover(self, state: State, why: Standing) -> None:
        """Drop every key the rules own, or owned, and begin a new epoch at a fresh snapshot."""
        patterns = set(self._rules.patterns)
        before = await self._applier.published()
        stale = True  # whatever was kept to be served under rules that are not known any more
        if before is not None:
            try:
                published = PublishedRules.decode(before)
                patterns.update(published.patterns)
                stale = self._rules.serves_stale or any(seconds for _, seconds in published.refresh)
            except MessageError:
                log.warning(
                    "the published rules cannot be read; keys of older rules may stay until their TTL"
                )
        if self._first and why is Standing.NO_POSITION and state.untouched and before is None:
            log.info("first start: dropping what the rules own", patterns=len(patterns))
        else:
            log.warning("dropping all owned keys", why=why.value, patterns=len(patterns))
        self._first = False
        self._seen = await self._applier.recover(
            state,
            rules=self._rules.hash,
            published=self._rules.published(),
            patterns=patterns,
            snapshot=lambda: self._source.read(None),
            stale=stale,
        )
        self._counters.recoveries += 1
        self._counters.epochs += 1

    async def _apply(self, state: State, page: Page, seen: Seen | None) -> State:
        """Carry one page out; the last one of a batch says the watermark ``seen`` in the same script."""
        moved = page.position != state.position
        if not page.entries and not moved:
            return state
        plan = await plan_page(page, self._rules, self._source)
        self._counters.entries += len(page.entries)
        if plan.queries:
            for failure in await self._source.run_queries(self._rules, plan):
                self._counters.failed(str(failure))
                log.error("a fan-out query failed; its patterns were invalidated", problem=str(failure))
        now = time.monotonic()
        say = seen if moved and now - self._said_at >= WATERMARK_SPACING else None
        state, primary_until = await self._applier.apply(
            state,
            page,
            keys=plan.keys,
            patterns=sorted(plan.patterns),
            store=moved,
            say=say,
            renewals=self._rules.renewals(plan),
            stale=self._rules.serves_stale,
        )
        if say is not None:
            self._said(now, primary_until)
        elif page.entries:
            self._unsaid = True
        self._counters.batches += bool(page.entries)
        self._counters.keys += len(plan.keys)
        self._counters.patterns += len(plan.patterns)
        return state

    async def _say(self, state: State, *, least: float) -> None:
        """Publish a watermark unless the last one is younger than ``least`` seconds."""
        now = time.monotonic()
        if self._seen is None or now - self._said_at < least:
            return
        self._said(now, await self._applier.watermark(state, self._seen))

    def _said(self, at: float, primary_until: str) -> None:
        self._said_at, self._unsaid, self._primary_until = at, False, primary_until
        self._counters.said(at)

    async def _rest(self, found: int) -> None:
        """Wait for the next reason to read."""
        spacing = WATERMARK_SPACING if self._unsaid else self._interval
        due = max(0.0, self._said_at + spacing - time.monotonic())
        if self._wakeups.asleep:
            if self._pace.must_wake:
                await self._wakeups.awake()
                return
            await self._wait(due)
        elif not found and self._pace.may_sleep and await self._wakeups.try_sleep():
            return  # read once more before sleeping
        else:
            await self._wait(min(self._pace.pause, due) if due else 0)

    async def _wait(self, seconds: float) -> None:
        if seconds >= TIMER_RESOLUTION and await self._wakeups.wait(seconds):
            self._wakeups.hint()  # seen by run(), which clears it just before the read
        await asyncio.sleep(0)

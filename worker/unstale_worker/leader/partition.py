"""The leader's work in one partition: begin, apply, publish, recover, each by its own state."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, assert_never

import structlog

from unstale.protocol.reasons import Kind
from unstale.runtime.cancellation import cancelled
from unstale.settings import WorkerSettings
from unstale_worker.captures.monitor import CaptureMonitor
from unstale_worker.leader.rules_in_force import RulesInForce
from unstale_worker.leader.watermarks import Watermarks
from unstale_worker.observe.worker_health import WorkerHealth
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.script_batches import ScriptBody, always
from unstale_worker.redis.state import Adopting, Seen, Standing, StoredState, standing, standing_after_read
from unstale_worker.rules import Renewal, Rules
from unstale_worker.sources import Page, Source

log = structlog.get_logger("unstale.pipeline")

RECONNECT_EVERY: Final = 10.0
"""Seconds after which a partition beside others asks again which node serves it."""


class Partition:
    """One partition of the Redis that a leader fills; a single server has one.

    Nothing here depends on another partition. While one is away, or recovers, it is not `ready`, and the
    others go on. When it is back, the next read of the outbox starts at its position.

    Attributes:
        state: The state that the next script requires; None while the partition is not ready.
        in_force: The rules that agents of this partition read.
        watermarks: When to publish the next one.

    Args:
        applier: Writes to the partition.
        source: The database.
        rules: Say what a change concerns.
        captures: The state of the captures.
        settings: Those of this partition.
        health: Where counters and states are kept for people.
        elsewhere: Called with this partition and patterns that the other ones still have to invalidate.
    """

    def __init__(
        self,
        applier: Applier,
        source: Source,
        rules: Rules,
        captures: CaptureMonitor,
        settings: WorkerSettings,
        health: WorkerHealth,
        elsewhere: Callable[["Partition", Collection[str]], object],
    ) -> None:
        self._applier, self._source, self._rules, self._captures = applier, source, rules, captures
        self._elsewhere = elsewhere
        self._health, self._counters = health, health.counters
        self.watermarks = Watermarks(applier, health.counters, interval=settings.watermark_interval)
        self.in_force = RulesInForce(applier, rules, settings)
        self.state: StoredState | None = None
        self._enters = settings.partitions > 1
        self._first_start = health.first_start
        self._owed: set[str] = set()
        self._publish_rules_at = 0.0
        self._reconnect_at = time.monotonic() + RECONNECT_EVERY
        self._primary_until = self._began_there = ""
        self._beginning: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Partition {self._applier!r}{'' if self.ready else ', not ready'}>"

    # --- ready or not ---------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """True if changes can be applied."""
        return self.state is not None

    @property
    def label(self) -> str:
        """The partition's label in the names of its keys."""
        return self._applier.names.partition

    @property
    def position(self) -> str:
        """The position that is stored in a partition that is ready."""
        return self._at.position

    def judge(self, page: Page) -> Standing:
        """Check a page that was read from this partition's position or an earlier one."""
        return standing_after_read(self._at, page)

    def lost(self) -> None:
        """Note that this partition failed: what is stored there may not be what is known."""
        self._reconnect_at = 0.0
        self.reconnect_if_due()

    def beginning(self, run: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        """Return the task that makes this partition ready; ``run`` is called if none is at work."""
        if self._beginning is None or self._beginning.done():
            self._beginning = asyncio.create_task(run(), name=f"unstale-partition-{self.label}")
        return self._beginning

    async def close(self) -> None:
        """End what runs beside the cycles."""
        task, self._beginning = self._beginning, None
        if task is not None:
            await cancelled(task)
        await self.in_force.close()

    async def begin(self, why: Standing | None = None) -> None:
        """Read the state, and settle what Redis alone can tell until changes can be applied.

        With ``why``, the position that was read last is void for this reason: first recover.
        """
        state, self.state = self.state, None
        if why is not None and state is not None:
            await self._recover(state, why)
        if self._enters:
            await self._applier.enter()
        while True:
            state = await self._applier.state()
            self.watermarks.primary_until = state.primary_until
            _, published = await self.in_force.follow()
            verdict = standing(state, rules=self.in_force.rules.hash)
            match verdict:
                case Standing.READY:
                    self._health.former = self.in_force.former.kept
                    if published:
                        self._captures.recall(state.broken)
                        self.in_force.lead(state)
                        self.state = state
                        return
                    # The rules are the same, but the key is gone, or the types of columns have changed.
                    log.info("publishing the rules again; new epoch")
                    await self._applier.new_epoch(
                        state, published=self.in_force.encoded(), why="the rules were published again"
                    )
                    self._counters.epochs += 1
                case Standing.OTHER_RUN:
                    why_text = verdict.value
                    if state.unproved:
                        why_text = "Redis does not tell its run"
                        log.info("Redis does not tell if it is the same server; new epoch")
                    else:
                        log.warning("Redis is another server than before; new epoch", position=state.position)
                    await self._applier.new_epoch(state, why=why_text)
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
        elif await self.in_force.adopt(state, page, await self._source.watch_states()):
            self._health.first_start = False
        else:
            await self._recover(state, Standing.OTHER_RULES)

    async def _recover(self, state: StoredState, why: Standing) -> None:
        """Drop every key that the rules own or owned, and begin a new epoch at a fresh snapshot."""
        published, _ = await self.in_force.follow()
        now, adopting = self.in_force.published, Adopting.read(state)
        patterns = {*now.patterns, *(published.patterns if published is not None else ())}
        patterns.update(adopting.patterns if adopting is not None else ())
        # Stale values may be left of rules that are not known any more.
        beside = published is None or published.keeps_older or now.keeps_older
        if self._first_start and why is Standing.NO_POSITION and state.untouched and published is None:
            log.info("first start; dropping all owned keys", patterns=len(patterns))
        else:
            log.warning("dropping all owned keys", why=why.value, patterns=len(patterns))
        self._first_start = self._health.first_start = False
        if why in (Standing.OTHER_DATABASE, Standing.WENT_BACK):
            # Before the snapshot: later changes are captured, or said not to be.
            self._elsewhere(self, await self._captures.restored())
        self.watermarks.seen = await self._applier.recover(
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
            self.in_force.transition.recovered(published, now, at=time.monotonic())

    # --- one batch ------------------------------------------------------------------------------

    def read_begins(self) -> str:
        """Note what stands before a read of the outbox; returns the time by the clock of Redis."""
        self._primary_until = self.watermarks.primary_until
        self._began_there = self._applier.server_time()
        return self._began_there

    def seen(self, page: Page, *, began: float) -> Seen:
        """Return what a watermark says when the batch that ends with ``page`` is applied as a whole."""
        return Seen.of(page, began=began, primary_until=self._primary_until, began_there=self._began_there)

    async def apply(
        self,
        page: Page,
        *,
        keys: Collection[str],
        patterns: Sequence[str],
        seen: Seen | None,
        renewals: Mapping[str, Renewal],
        reason: Callable[[ScriptBody], bytes],
    ) -> None:
        """Apply one page. ``seen``, if the page is a batch's last, may be published in the same script."""
        state = self._at
        moved, at = page.position != state.position, time.monotonic()
        joins = seen is not None and moved and self.watermarks.may_join()
        self.state = None  # until it has succeeded
        after, primary_until = await self._applier.apply(
            state,
            page,
            keys=keys,
            patterns=patterns,
            store=moved,
            seen=seen if joins else None,
            renewals=renewals,
            beside=self._rules.keeps_older,
            reason=reason,
        )
        self.state = after
        if joins:
            self.watermarks.published(at, primary_until)
        elif page.entries:
            self.watermarks.change_applied()

    async def between_pages(self) -> None:
        """Repeat the watermark of the last batch while a long one goes on, so that agents stay attached."""
        state, self.state = self._at, None
        await self.watermarks.publish_between_pages(state)
        self.state = state

    async def finish(self, page: Page, seen: Seen) -> None:
        """Do what is due after a batch: invalidate once more, publish, and look after the rules."""
        state, self.state = self._at, None
        left = self.in_force.transition.due(time.monotonic())
        if patterns := self._owed | left:
            # Without a change that asks for it; the position does not move.
            await self._applier.apply(
                state, page, keys=(), patterns=sorted(patterns), store=False,
                beside=self._rules.keeps_older, broken=self._captures.remembered(),
                reason=always(Kind.CAPTURES if self._owed else Kind.RULES),
            )  # fmt: skip
            self.watermarks.change_applied()
            self._counters.patterns += len(patterns)
            self._owed.clear()
        await self.in_force.shorten_if_due(state, page)
        self.watermarks.seen = seen
        if state.position == page.position:
            await self.watermarks.publish_if_due(state)
        elif self.watermarks.due_in() == 0:  # nothing concerned this partition, and its position follows late
            at = time.monotonic()
            state, pending = await self._applier.apply(
                state, page, keys=(), patterns=(), store=True, seen=seen
            )
            self.watermarks.published(at, pending)
        await self._keep_published(state)
        self.in_force.look_if_due()
        if not self.in_force.former.retires:  # else these are other rules, to be put in force
            self.state = state

    def owe(self, patterns: Collection[str]) -> None:
        """Note patterns to invalidate when this partition is ready again."""
        self._owed.update(patterns)

    def reconnect_if_due(self) -> None:
        """Ask the nodes again who serves this partition, from time to time."""
        if time.monotonic() >= self._reconnect_at:
            self._reconnect_at = time.monotonic() + RECONNECT_EVERY
            self._applier.reconnect()

    async def _keep_published(self, state: StoredState) -> None:
        """Publish the rules again if Redis lost them; looked at as often as a watermark is due."""
        now = time.monotonic()
        if now < self._publish_rules_at:
            return
        self._publish_rules_at = now + self.watermarks.interval
        if await self._applier.keep_published(state, self.in_force.encoded()):
            log.warning("Redis had lost the published rules; they are published again")

    @property
    def _at(self) -> StoredState:
        assert self.state is not None
        return self.state

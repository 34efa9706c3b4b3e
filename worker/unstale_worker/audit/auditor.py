"""The audit of a running system: follow the changes, compare what is due, count, and keep violations."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from unstale.errors import ConfigurationError, UnstaleError
from unstale_worker.audit.agenda import Agenda, Due
from unstale_worker.audit.changes import Changes, auditable
from unstale_worker.audit.comparing import Comparer, tables_of
from unstale_worker.audit.contents import Contents
from unstale_worker.audit.judging import Compared, Outcome
from unstale_worker.audit.sampling import Sampling
from unstale_worker.audit.tally import Tally
from unstale_worker.audit.violations import Violations
from unstale_worker.captures.coverage import coverage
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.runtime.event_loop import stopped_within
from unstale_worker.runtime.logs import get_logger
from unstale_worker.sources.outbox import OutboxSource

log = get_logger("unstale.audit")

BATCH: Final = 500
"""Keys of one comparison: one command to Redis and one query."""
DRAW_EVERY: Final = 5.0
"""Seconds between two draws of random rows, once each table was drawn from."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of an audit.

    Attributes:
        delays: Seconds after a change at which its keys are compared.
        rate: Keys per second that are compared at random.
        tick: Seconds between two looks at the outbox.
        bound: Seconds of staleness against which time and reads are measured.
    """

    delays: tuple[float, ...] = (10.0, 60.0, 300.0)
    rate: float = 20.0
    tick: float = 0.5
    bound: float = 5.0


class Auditor:
    """Audits until it is stopped.

    Attributes:
        tally: The figures.
        violations: What was found.
        each_round: Called after each round.

    Example:
        >>> auditor = Auditor(rules, source, changes, comparer, violations, agenda, Options())
        >>> await auditor.run(stop, seconds=600)
    """

    def __init__(
        self,
        rules: Rules,
        source: OutboxSource,
        changes: Changes,
        comparer: Comparer,
        violations: Violations,
        agenda: Agenda,
        options: Options,
    ) -> None:
        self._rules, self._source, self._changes, self._comparer = rules, source, changes, comparer
        self._agenda, self._options = agenda, options
        self.each_round: Callable[[], object] = lambda: None
        self._sampling = Sampling(rules, source, agenda)
        self.violations = violations
        self.tally = Tally(options.bound)
        self._next_draw = 0.0
        self._owed = 0.0

    @property
    def changes(self) -> Changes:
        """The changes it follows."""
        return self._changes

    @property
    def agenda(self) -> Agenda:
        """The keys that are still to be compared."""
        return self._agenda

    @property
    def not_sampled(self) -> dict[str, str]:
        """Tables whose rows could not be drawn at random, with the reason."""
        return self._sampling.problems

    async def run(self, stop: asyncio.Event, *, seconds: float | None = None) -> None:
        """Audit for ``seconds``, or until ``stop`` is set.

        Raises `ConfigurationError` in the first round; later, an error of a server costs one round.
        """
        began = before = time.monotonic()
        worked = away = False
        while not stop.is_set() and (seconds is None or time.monotonic() - began < seconds):
            round_began = time.monotonic()
            try:
                await self.round(round_began - before)
                if away:
                    log.warning("both servers answer again")
                worked, away = True, False
            except UnstaleError as error:  # a restore may take the schema away for a moment
                if not worked and isinstance(error, ConfigurationError):
                    raise
                self._changes.forget()
                self.tally.unanswered(time.monotonic() - before)
                if not away:
                    log.warning("a server does not answer; nothing is compared meanwhile", error=str(error))
                away = True
            before = round_began if not away else time.monotonic()
            self.each_round()
            pause = self._options.tick - (time.monotonic() - round_began)
            if seconds is not None:
                pause = min(pause, began + seconds - time.monotonic())
            await stopped_within(stop, seconds=max(0.0, pause))

    async def round(self, elapsed: float) -> None:
        """Follow the changes, then compare everything that is due; raises `Unavailable`."""
        contents = await self._changes.follow()
        self._watch(contents, elapsed)
        now = time.monotonic()
        if now >= self._next_draw:
            for _ in range(max(1, self._sampling.tables) if self._next_draw == 0.0 else 1):
                await self._sampling.draw()
            self._next_draw = now + DRAW_EVERY
        self._owed = min(self._owed + elapsed * self._options.rate, 10 * BATCH)
        due = self._agenda.due(now, most=10 * BATCH)
        chosen = self._agenda.at_random(int(self._owed))
        self._owed -= int(self._owed)
        await self._compare_all([*due, *chosen])
        if self.violations.lasting:
            await self._follow_up()

    def _watch(self, contents: Contents, elapsed: float) -> None:
        """Compare the staleness that the watermark promises with that of the open changes."""
        oldest = self._changes.oldest()
        seen = 0.0 if oldest is None else max(0.0, contents.now_ms - oldest) / 1000
        promised = contents.promised if contents.refusal(self._rules.hash) is None else None
        self.tally.watched(elapsed, promised=promised, seen=seen)
        if promised is not None and oldest is not None and contents.read_at_ms is not None:
            self.tally.broken_promises += oldest < contents.read_at_ms

    async def _compare_all(self, due: Iterable[Due]) -> None:
        grouped: dict[str, tuple[RefreshSpec, dict[str, list[Due]]]] = {}
        for each in due:
            spec = auditable(self._rules, each.key)
            if spec is not None:
                keys = grouped.setdefault(spec.template.text, (spec, defaultdict(list)))[1]
                keys[each.key].append(each)
        for spec, keys in grouped.values():
            names = list(keys)
            for start in range(0, len(names), BATCH):
                for compared in await self._comparer.compare(spec, names[start : start + BATCH]):
                    if compared.outcome is Outcome.WRONG:
                        compared = await self._confirmed(spec, compared)
                    for each in keys[compared.key]:
                        await self._count(each, compared)

    async def _count(self, due: Due, compared: Compared) -> None:
        open_for = None
        if compared.xid is not None and (at := self._changes.seen_at(compared.xid)) is not None:
            open_for = (compared.now_ms - at) / 1000
        self.tally.add(due, compared, open_for=open_for)
        if compared.outcome is Outcome.WRONG:
            await self.violations.add(due, compared)

    async def _confirmed(self, spec: RefreshSpec, first: Compared) -> Compared:
        """Look again at a difference: it counts if the same value differs from the same loaded one twice.

        A loader that returns something else each time is thereby no violation, and neither is a change of a
        table whose captures are missing: the worker says so itself, and invalidates its keys every 15 s.
        """
        uncaptured = await self._uncaptured(first.key)
        if uncaptured is not None:
            return Compared(first.key, Outcome.REFUSED, uncaptured, now_ms=first.now_ms)
        (second,) = await self._comparer.compare(spec, [first.key])
        if second.outcome is Outcome.WRONG:
            if (second.cached, second.loaded) == (first.cached, first.loaded):
                return second
            reason = "its loader returns another value each time, without a change"
            return Compared(first.key, Outcome.REFUSED, reason, now_ms=second.now_ms)
        self.tally.confirming += 1
        return second

    async def _uncaptured(self, key: str) -> str | None:
        """Return why changes of a table that ``key`` depends on may be missing in the outbox, or None."""
        tables = tables_of(self._rules, key)
        states = await self._source.watch_states()
        numbers = [state.watch for state in states if state.current]
        covered = coverage(self._rules, await self._source.watch_states(numbers))
        broken = [f"{table} is not captured" for table in covered.broken if table in tables]
        return broken[0] if broken else None

    async def _follow_up(self) -> None:
        """Look again at the violations that last."""
        for violation in list(self.violations.lasting.values()):
            spec = auditable(self._rules, violation.key)
            assert spec is not None
            (compared,) = await self._comparer.compare(spec, [violation.key])
            if compared.outcome is Outcome.WRONG:
                violation.lasted_s = (compared.now_ms - violation.found_ms) / 1000
            elif compared.outcome is not Outcome.REFUSED:
                self.violations.ended(compared)

"""Checks the captures on a timer, and says which patterns to invalidate while changes may go unreported."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from unstale.runtime.cancellation import pass_on_cancellation
from unstale_worker.captures.coverage import Coverage, coverage
from unstale_worker.rules import Rules, TableName
from unstale_worker.sources import Page, Source, WatchState

CHECK_EVERY: Final = 30.0
"""Seconds between two checks while all is well. One query of some milliseconds."""
REPEAT_EVERY: Final = 15.0
"""Seconds between two checks, and two invalidations, while a table is not captured. The keys of such a table
are therefore at most that old, plus the time of the invalidation."""
LEAST_PAUSE: Final = 1.0
"""Seconds between two checks at least, however many whole-table entries ask for one."""
RETRY_AFTER: Final = 5.0
"""Seconds after which a check that failed is repeated."""
UNKNOWN_AFTER: Final = 60.0
"""Seconds without a successful check after which every table counts as not captured."""


class CaptureMonitor:
    """The state of the captures of one database, as far as the rules need them.

    No event is certain to tell that a capture is gone: on plain Postgres no event trigger follows DDL, and
    elsewhere a superuser can switch event triggers off. So the captures are checked on a timer, and earlier
    when a whole-table entry was read, which is what DDL leaves behind.

    Example:
        >>> monitor = CaptureMonitor(source, rules, logger=log)
        >>> patterns = await monitor.check_if_due()

    Args:
        source: The database.
        rules: What has to be captured.
        logger: Receives one line for each finding, and one when it is repaired.
        known: The findings of an earlier monitor, which are not logged again.
        report: Called with every new result.
        found: Called with the states that were found; with none of them while they are unknown.
    """

    def __init__(
        self,
        source: Source,
        rules: Rules,
        *,
        logger: Any,
        known: Coverage | None = None,
        report: Callable[[Coverage], object] = lambda _: None,
        found: Callable[[Sequence[WatchState]], object] = lambda _: None,
    ) -> None:
        self._source, self._rules, self._log, self._report = source, rules, logger, report
        self._found = found
        self._known = known or Coverage()
        self._unread: set[int] = set()
        self._due = -math.inf
        self._checked = time.monotonic()
        self._failure = ""

    def __repr__(self) -> str:
        return f"<CaptureMonitor broken={len(self._known.broken)} due_in={self.due_in():.1f}>"

    def due_in(self) -> float:
        """Return the seconds until the next check is due."""
        return max(0.0, self._due - time.monotonic())

    def noticed(self, page: Page) -> None:
        """Make a check due if ``page`` has a whole-table entry: DDL, a truncate or a capture wrote it."""
        whole = {entry.watch for entry in page.entries if entry.keys is None}
        if whole - self._unread:
            self._unread |= whole
            self._due = min(self._due, self._checked + LEAST_PAUSE)

    def remembered(self) -> str:
        """Return the tables that are not captured as a JSON array, for `recall`."""
        return json.dumps(sorted(str(table) for table in self._known.broken))

    def recall(self, remembered: str) -> None:
        """Take over what an earlier monitor knew when patterns were last invalidated for its sake.

        A table that was repaired since then has to be invalidated once more, also after another leader.
        """
        try:
            names = set(json.loads(remembered or "[]"))
        except (ValueError, TypeError):
            names = set()
        tables = [TableName(*table) for table in self._rules.tables]
        sentence = "it was not captured before this leader's term"
        broken = {table: sentence for table in tables if str(table) in names}
        self._known = Coverage({**broken, **self._known.broken}, self._known.coarse)

    async def restored(self) -> frozenset[str]:
        """Check the captures of a database that was restored or exchanged; call it before the first read.

        Returns the patterns to invalidate where the owned keys are not dropped.

        A restore may not be complete, and creates triggers after the data. Until the captures are whole,
        `check_if_due` asks for their patterns again and again.
        """
        self._unread.clear()
        return await self.check()

    async def check_if_due(self) -> frozenset[str]:
        """Check if it is time, see `check`; else return nothing."""
        return await self.check() if self.due_in() == 0 else frozenset()

    async def check(self) -> frozenset[str]:
        """Check all captures; return the patterns to invalidate now.

        These are the patterns of every table that is not captured, and once more of a table that was not
        captured at the check before.
        """
        before, began = self._known, time.monotonic()
        try:
            # A comparison of the captures with their table costs more, so only where it may have changed.
            states = await self._source.watch_states(sorted(self._unread))
        except Exception as error:
            pass_on_cancellation()
            self._due = time.monotonic() + RETRY_AFTER
            if str(error) != self._failure:
                self._failure = str(error) or type(error).__name__
                self._log.warning("the captures could not be checked", error=self._failure)
            if began - self._checked < UNKNOWN_AFTER:
                return frozenset()
            found, states = self._all_unknown(), []
        else:
            found = coverage(self._rules, states)
            self._checked, self._failure = began, ""
            # Compared again until all is well: otherwise an outdated capture looks like a good one.
            self._unread = {
                state.watch for state in states if state.current and (state.broken or state.coarse)
            }
            self._due = began + (REPEAT_EVERY if found.broken else CHECK_EVERY)
        self._say(before, found)
        self._known = found
        self._report(found)
        self._found(states)
        return self._patterns(set(found.broken) | set(before.broken))

    def _all_unknown(self) -> Coverage:
        sentence = f"its captures could not be checked for {UNKNOWN_AFTER:.0f} s: {self._failure}"
        return Coverage({TableName(*table): sentence for table in self._rules.tables}, self._known.coarse)

    def _patterns(self, tables: set[TableName]) -> frozenset[str]:
        return frozenset(
            pattern for watch in self._rules.watches if watch.table in tables for pattern in watch.patterns
        )

    def _say(self, before: Coverage, now: Coverage) -> None:
        for table, why in _new(before.broken, now.broken):
            self._log.error(
                "changes of a table may go unreported; its keys are invalidated again and again",
                table=str(table),
                why=why,
                seconds=REPEAT_EVERY,
            )
        for table, why in _new(before.coarse, now.coarse):
            self._log.warning(
                "changes of a table invalidate more keys than needed", table=str(table), why=why
            )
        for table in {**before.broken, **before.coarse}:
            if table not in now.broken and table not in now.coarse:
                self._log.info("the captures of a table are whole again", table=str(table))


def _new(before: Mapping[TableName, str], now: Mapping[TableName, str]) -> list[tuple[TableName, str]]:
    return [(table, why) for table, why in now.items() if before.get(table) != why]

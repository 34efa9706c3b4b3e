"""Watches that the rules lack by now: which of them the leader still applies, and until when."""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import structlog

from unstale.protocol.key_watches import Kept, KeyWatch
from unstale.protocol.messages import PublishedRules
from unstale.protocol.tags import shown
from unstale_worker.agents.read import Agents
from unstale_worker.captures.coverage import coverage
from unstale_worker.rules import Rules, removed, with_former
from unstale_worker.rules.model import tables_of
from unstale_worker.sources import WatchState

log = structlog.get_logger("unstale.pipeline")

QUIET: Final = 300.0
"""Seconds for which no report may show an agent of the former rules before their watches are retired. Agents
report at least once a minute, so all of them have done so after Redis was emptied."""
LOOK_EVERY: Final = 20.0
"""Seconds between two looks at the reports, while there are former watches."""
MOST_KEPT: Final = 200
"""Most former watches; the newest are kept."""


class FormerRules:
    """The rules of one leader, and the former watches that it applies beside them.

    An agent may use a former watch if it was started before the rules lacked it, or if it has looked up a key
    that only former watches own. Agents that do not report are not seen.

    Attributes:
        rules: What changes are planned by.

    Example:
        >>> former = FormerRules(rules, keep=86_400.0)
        >>> rules_in_force = former.follow(published, now=1_800_000_000.0)

    Args:
        own: The rules file.
        keep: Most seconds for which a former watch is applied; 0: none is.
    """

    def __init__(self, own: Rules, *, keep: float) -> None:
        self._own, self._keep = own, keep
        self._retired: dict[KeyWatch, str] = {}
        self._used_at: dict[KeyWatch, float] = {}
        self.rules = own

    def __repr__(self) -> str:
        return f"<FormerRules kept={len(self.kept)}>"

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The former watches that are applied."""
        return self.rules.kept

    @property
    def retires(self) -> bool:
        """True if one of them is to be applied no longer."""
        return any(each.watch in self._retired for each in self.kept)

    def follow(self, published: PublishedRules | None, *, now: float) -> Rules:
        """Return the rules to put in force after those that are ``published``, at the Unix time ``now``."""
        found: dict[KeyWatch, float] = {}
        if published is not None and self._keep:
            found = removed(self._own, published, now=now)
        newest = sorted((item for item in found.items() if item[0] not in self._retired), key=lambda x: -x[1])
        former, forms = dict(newest[:MOST_KEPT]), published.forms if published is not None else ()
        if former != {each.watch: each.since for each in self.kept}:
            self.rules = with_former(self._own, former, forms)
        return self.rules

    def captured(self, states: Iterable[WatchState]) -> None:
        """Retire each watch whose changes may not be captured: nothing would invalidate its keys."""
        states = tuple(states)
        own = len(self.rules.watches) - len(self.kept)
        for watch, each in zip(self.rules.watches[own:], self.kept, strict=True):
            alone = replace(self._own, watches=(watch,), tables=tables_of((watch,)), kept=(), _steps={})
            for why in coverage(alone, states).broken.values():
                self._retire(each, f"its changes may go unreported: {why.partition(';')[0]}")

    def looked(self, agents: Agents | None, *, now: float) -> None:
        """Retire each watch that no agent has used for long enough, by the reports of all agents.

        Args:
            agents: The reports; None if they could not be read.
            now: Unix time, by the clock of Redis.
        """
        at = time.monotonic()
        for each in self.kept:
            used = agents is None or agents.unreadable or agents.left_out or agents.users_of(each)
            if now - each.since > self._keep:
                self._retire(each, f"it was applied for {self._keep:.0f} s, the most")
            elif used or each.watch not in self._used_at:
                self._used_at[each.watch] = at
            elif at - self._used_at[each.watch] >= QUIET:
                self._retire(each, "no agent that reports uses it any more")

    def said(self, before: PublishedRules) -> None:
        """Log the former watches that are applied from now on, and those of ``before`` that are not."""
        known, kept = {each.watch for each in before.kept}, {each.watch for each in self.kept}
        for each in self.kept:
            if each.watch not in known:
                log.info(
                    "a watch is not in the rules any more; it is applied until no agent uses it",
                    table=f"{each.watch.schema}.{each.watch.table}",
                    template=shown(each.watch.template),
                    by="pattern, as its query is not known" if each.watch.query else "key",
                    most_seconds=self._keep,
                )
        for watch, why in self._retired.items():
            if watch in known - kept or (watch in before.watches and watch not in kept):
                log.info(
                    "a former watch is applied no longer",
                    table=f"{watch.schema}.{watch.table}",
                    template=shown(watch.template),
                    why=why,
                )

    def _retire(self, each: Kept, why: str) -> None:
        self._retired.setdefault(each.watch, why)

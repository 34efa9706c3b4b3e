"""Watches that new rules lack, kept in force for agents that still use their keys, and retired at the end.

One key, whose watch only the old rules have. Leaders with the old and the new rules take turns; those with
the new ones keep the watch until no agent of the old rules is left, its table is not captured any more, or it
was kept for long enough.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .checker import Move
from .deploy import LEASE, NEVER

FORMER_CAUGHT: Final = (
    "former watches are planned",
    "a later leader keeps them too",
    "agents that may use them are waited for",
    "what is not captured is not kept",
    "agents hear that keys lose their owner",
    "their keys are dropped at the end",
)
"""What can be switched off."""

COMMITS: Final = 2
TERMS: Final = 3
"""Leaders, one after another: of the new rules if even."""
OLD, KEPT, NEW, ADOPTING = "old", "new and former", "new", "adopting"

OLD_VALUE = "tier: Redis holds a value of an owned key that is older than the newest watermark says"
UNSETTLED = "settled: all is applied, and Redis holds another value of an owned key than the database"
GIVEN_UP = "former: an agent of the old rules is left, and no rule owns its keys"
LEFT_OVER = "former: a value that agents of the old rules stored has outlived them"


class Former(NamedTuple):
    """The state: the table, the key, the rules in force, and the agents of the old rules."""

    commits: tuple[bool, ...] = ()  # True if the capture wrote it
    captured: bool = True
    noticed: bool = False  # the leader has seen that it is not
    alive: bool = True  # an agent of the old rules
    over: bool = False  # the watch was kept for as long as watches are
    fence: int = 1
    rules: str = OLD  # in force, by the state
    published: str = OLD  # what agents read
    adopting: bool = False  # in the state: the key is still to be dropped
    memory: str = ""  # the rules that the leader is putting in force
    dropped: bool = False  # it has dropped the key for that
    retiring: bool = False  # it has decided to keep the watch no longer
    plans: str = ""  # the rules that it plans changes by
    batch: int = NEVER
    position: int = 0
    said: int = 0
    value: int = NEVER
    load: int | None = None  # of the agent, under a lease: commits seen, or NEVER


class FormerWatches:
    """A model of ``RulesInForce``, ``FormerRules`` and ``adopt.lua``; ``off`` is one of `FORMER_CAUGHT`."""

    def __init__(self, off: str = "") -> None:
        self._off = off

    def start(self) -> Former:
        """The old rules are in force, and the value is cached."""
        return Former(value=0)

    def moves(self, at: Former) -> Iterator[Move[Former]]:
        """One step of the database, of time, of the agent, or of a leader."""
        if len(at.commits) < COMMITS:
            yield "the table changes", at._replace(commits=(*at.commits, at.captured)), None
        if at.captured:
            yield "the migration takes the capture away", at._replace(captured=False), None
        if at.alive:
            yield from self._agent(at)
        if not at.over:
            yield "a day passes", at._replace(over=True), None
        if at.fence < TERMS:
            yield "a leader with other rules", self._begun(at)._replace(fence=at.fence + 1), None
        if at.plans or at.memory:
            yield "the leader crashes", self._begun(at), None
        yield from self._leader(at)

    def _begun(self, at: Former) -> Former:
        return at._replace(memory="", dropped=False, retiring=False, plans="", batch=NEVER)

    def _agent(self, at: Former) -> Iterator[Move[Former]]:
        yield "the last agent of the old rules ends", at._replace(alive=False, load=None), None
        if at.load is None and at.value == NEVER:
            yield "a lease", at._replace(value=LEASE, load=NEVER), None
        elif at.load == NEVER:
            yield "the loader reads", at._replace(load=len(at.commits)), None
        elif at.load is not None:
            value = at.load if at.value == LEASE else at.value
            yield "a fill", at._replace(value=value, load=None), None

    def _target(self, at: Former) -> str:
        """Return the rules that the leader wants in force."""
        if at.fence % 2:
            return OLD
        knows = self._off != "a later leader keeps them too" or at.published == OLD
        return KEPT if at.published in (OLD, KEPT) and knows and not at.retiring else NEW

    def _leader(self, at: Former) -> Iterator[Move[Former]]:
        target = self._target(at)
        if at.plans:
            yield from self._led(at)
        elif at.memory:
            if not at.dropped:
                keeps = self._off == "their keys are dropped at the end" and at.memory == NEW
                drops = (at.adopting or at.memory == NEW) and not keeps
                value = NEVER if drops else at.value
                yield "drops the key, if it has to", at._replace(value=value, dropped=True), None
            else:
                published = at._replace(rules=at.memory, published=at.memory, adopting=False)
                yield "publishes its rules", self._begun(published), None
        elif at.rules == target == at.published:
            yield "leads", at._replace(plans=target), None
        else:
            adopting = at.adopting or target == NEW or at.published == NEW
            begun = at._replace(rules=ADOPTING, adopting=adopting, memory=target)
            yield "puts its rules in force", begun, None

    def _led(self, at: Former) -> Iterator[Move[Former]]:
        if not at.captured and not at.noticed and at.plans == KEPT:
            yield "it sees that the capture is gone", at._replace(noticed=True), None
        if at.plans == KEPT and self._retires(at):
            if self._off == "agents hear that keys lose their owner":
                yield "retires the watch", at._replace(plans=NEW, retiring=True), None
            else:
                yield "retires the watch", self._begun(at)._replace(retiring=True), None
        if at.batch == NEVER:
            yield "reads", at._replace(batch=len(at.commits)), None
            return
        planned = at.plans == OLD or (at.plans == KEPT and self._off != "former watches are planned")
        changed = planned and any(at.commits[at.position : at.batch])
        applied = at._replace(
            position=at.batch, said=at.batch, batch=NEVER, value=NEVER if changed else at.value
        )
        yield "applies it, with a watermark", applied, None

    def _retires(self, at: Former) -> bool:
        waited = not at.alive or self._off == "agents that may use them are waited for"
        gone = at.noticed and self._off != "what is not captured is not kept"
        return waited or gone or at.over

    def broken(self, at: Former) -> str | None:
        """Check the promises about the key, while a rule owns it for agents, and after that."""
        if at.published == NEW:
            kept_on = at.captured and not at.over and not at.noticed
            if at.alive and kept_on:
                return GIVEN_UP
            return LEFT_OVER if not at.alive and kept_on and at.value >= 0 else None
        if 0 <= at.value < sum(at.commits[: at.said]):
            return OLD_VALUE
        followed = at.captured or at.plans == KEPT  # otherwise its keys are invalidated again and again
        if self.at_rest(at) and followed and 0 <= at.value < len(at.commits):
            return UNSETTLED
        return None

    def at_rest(self, at: Former) -> bool:
        """The leader's rules are in force, everything is applied, and no watch is to be retired."""
        done = at.plans == at.rules == at.published and at.position == at.said == len(at.commits)
        if at.plans == KEPT:
            waits = at.alive and not at.over
            seen = at.captured or at.noticed
            return done and waits and seen and (at.captured or not self._retires(at))
        return done

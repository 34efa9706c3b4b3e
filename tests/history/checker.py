"""Holds an agent's history against the promises. Pure: records in, verdict out.

Each verdict follows from a sentence of the guarantees:

====================  ==============================================================================
``older``             a read began after its agent had processed the invalidation of a version of a row (or
                      its own ``delete`` or ``wait_for`` had been confirmed) and showed an older state.
                      *What an agent has processed an invalidation of, it never serves again.*
``late``              the state shown was surely replaced more than ``staleness`` (or ``max_staleness``)
                      before the read began. *An answer is at most `staleness` old while attached.*
``unbounded``         the same while detached, by `Limits.detached`. *Never unbounded while detached.*
``unreal``            the state was never committed, or not yet. *A value is what the database held.*
``lost``              the agent claimed to be true to everything committed before a moment, and a change
                      before it was neither announced nor covered by dropping everything. *Every committed
                      change invalidates its keys at least once*; the claim is what a watermark means.
``wrong``             after everything settled, a cached value differs from the database.
====================  ==============================================================================

The floor of ``older`` is implied, not guessed: the rules make the trace key of a change *after* the keys that
hold values of the row, keys of one change are logged in that order, an agent processes the log in order, and
an event is delivered after the copies were dropped. So who has heard of ``trace:item:5:17`` has dropped
``item:5``, in Redis it is gone already, and no older state can come back: that is the promise. A pattern or a
reset names no version, so it raises no floor.

A key that a rule serves stale may show what was true until a change, for so many seconds after the change was
*applied*: so at most that long after the agent has heard of it; attached, without ``max_staleness``, and not
after the agent's own ``delete``. Such reads are counted apart, too.

``older`` and ``unreal`` hold for reads of any agent, attached or not. What the design does *not* promise
(bounds in the `max_silence` after a failover that lost writes) is counted apart, so that it hides nothing.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from history.records import Confirmed, Final, Heard, Opened, Read, Record, Reset, Sample
from history.verdict import Limits, Verdict
from history.writes import Change, Writes, trace
from unstale.protocol.globs import matches

MOST_COMPLAINTS = 20


@dataclass(slots=True)
class _Agent:
    """What one agent knew, while its history is walked through."""

    name: str
    notices: int = 0
    floors: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Row → (number of the notice, least state it allows), growing in both."""
    confirmed: dict[str, int] = field(default_factory=dict)
    """Row → least state that a `Confirmed` allows."""
    announced: dict[str, list[float]] = field(default_factory=dict)
    """Trace key → when it was heard."""
    patterns: dict[str, float] = field(default_factory=dict)
    opened: float = math.inf
    resets: list[float] = field(default_factory=list)
    judged: int = 0
    """How many of the changes have been looked for."""
    claimed: float = 0.0
    """The largest finite staleness claimed."""


class Checker:
    """Judges the histories of any number of agents.

    Example:
        >>> checker = Checker(writes, Limits())
        >>> checker.judge("agent-1", records)
        >>> checker.verdict.true
        True
    """

    def __init__(self, writes: Writes, limits: Limits | None = None) -> None:
        self._writes = writes
        self._limits = limits if limits is not None else Limits()
        self._changes = writes.changes()
        self._reads = self._attached = self._unpromised = self._served_stale = self._finals = 0
        self._stale: Counter[str] = Counter()
        self._lost: dict[str, None] = {}
        self._wrong: dict[str, None] = {}
        self._worst = self._worst_detached = 0.0
        self._complaints: list[str] = []

    def __repr__(self) -> str:
        return f"<Checker {self._reads} reads, {sum(self._stale.values())} stale>"

    def judge(self, agent: str, records: Iterable[Record]) -> None:
        """Walk through one agent's history, in its order."""
        known = _Agent(agent)
        for record in records:
            match record:
                case Read():
                    self._read(known, record)
                case Heard() | Confirmed():
                    self._notice(known, record)
                case Sample():
                    self._sample(known, record)
                case Reset():
                    known.notices += 1
                    known.resets.append(record.at)
                case Opened():
                    known.opened = record.at
                case Final():
                    self._final(agent, record)

    @property
    def verdict(self) -> Verdict:
        """The judgement so far."""
        return Verdict(
            reads=self._reads,
            attached_reads=self._attached,
            stale=dict(self._stale),
            served_stale=self._served_stale,
            unpromised=self._unpromised,
            lost=tuple(self._lost),
            wrong=tuple(self._wrong),
            finals=self._finals,
            worst=self._worst,
            worst_detached=self._worst_detached,
            complaints=tuple(self._complaints),
        )

    # --- notices --------------------------------------------------------------------------------

    def _notice(self, known: _Agent, record: Heard | Confirmed) -> None:
        known.notices += 1
        for row, version in record.versions:
            if isinstance(record, Heard):
                known.announced.setdefault(trace(row, version), []).append(record.at)
            floors = known.floors.setdefault(row, [])
            least = self._writes.at_least(row, version)
            if isinstance(record, Confirmed):
                known.confirmed[row] = max(least, known.confirmed.get(row, 0))
            if not floors or least > floors[-1][1]:
                floors.append((known.notices, least))
        if isinstance(record, Heard):
            for pattern in record.patterns:
                known.patterns[pattern] = record.at

    def _sample(self, known: _Agent, record: Sample) -> None:
        """Everything committed before ``fresh`` must have been announced by now."""
        known.claimed = max(known.claimed, record.at - record.fresh)
        reach = bisect_right(self._changes, record.fresh, key=attrgetter("after"))
        for change in self._changes[known.judged : reach]:
            if change.before >= known.opened and self._captured(change) and not self._told(known, change):
                self._lost[f"{change.row}@{change.version}"] = None
                self._complain(
                    f"{known.name} claimed at {record.at:.3f} to be true to {record.fresh:.3f}, and had not "
                    f"been told of version {change.version} of {change.row}, committed by {change.after:.3f}"
                )
        known.judged = max(known.judged, reach)

    def _captured(self, change: Change) -> bool:
        return not any(
            change.row.startswith(rows) and since <= change.after and change.before <= until
            for since, until, rows in self._limits.uncaptured
        )

    def _told(self, known: _Agent, change: Change) -> bool:
        if _first(known.resets, change.before) is not None or any(
            _first(known.announced.get(key, ()), change.before) is not None for key in change.traces
        ):
            return True
        return any(
            at >= change.before and any(matches(pattern, key) for key in change.traces)
            for pattern, at in known.patterns.items()
        )

    # --- reads ----------------------------------------------------------------------------------

    def _read(self, known: _Agent, read: Read) -> None:
        self._reads += 1
        self._attached += read.attached
        if read.staleness is not None:
            known.claimed = max(known.claimed, read.staleness)
        faults = {
            fault: words
            for row, version in read.seen
            for fault, words in self._faults(known, read, row, version)
        }
        if not faults:
            return
        if faults.keys() <= {"older", "late"} and all(
            self._may_be_stale(known, read, row, version) for row, version in read.seen
        ):
            self._served_stale += 1
            return
        if "unreal" not in faults and self._is_unpromised(read):
            self._unpromised += 1
            return
        for fault in ("unreal", "older", "late", "unbounded"):
            if fault in faults:
                self._stale[fault] += 1
                self._complain(f"{known.name}, {fault}: {read.key} {faults[fault]}")
                return

    def _faults(self, known: _Agent, read: Read, row: str, version: int | None) -> Iterable[tuple[str, str]]:
        """What is wrong with what ``read`` showed of one row: kind and words."""
        writes = self._writes
        shown = writes.ordinal(row, version) if version is not None else writes.absent(row, until=read.ended)
        if (
            shown is None
            or writes.began(row, shown) > read.ended
            or (version is not None and not writes.present(row, shown))
        ):
            yield "unreal", f"showed version {version} of {row}, which was not committed by {read.ended:.3f}"
            return
        floor = self._floor(known, row, read.notices)
        if shown < floor:
            yield (
                "older",
                f"showed state {shown} of {row} (version {version}) in a read from {read.began:.3f} to "
                f"{read.ended:.3f} that began after state {floor} was announced or confirmed",
            )
        replaced = writes.replaced(row, shown)
        age = read.began - replaced
        if age <= 0:
            return
        if not self._is_unpromised(read):
            if read.attached:
                self._worst = max(self._worst, age)
            else:
                self._worst_detached = max(self._worst_detached, age)
        claims = [claim for claim in (read.staleness, read.bound) if claim is not None]
        if claims and age > min(claims):
            yield (
                "late",
                f"showed version {version} of {row} in a read at {read.began:.3f}, {age * 1000:.0f} ms after "
                f"it was replaced; claimed was {min(claims) * 1000:.0f} ms",
            )
        elif age > self._limits.detached + known.claimed:
            yield "unbounded", f"showed version {version} of {row} {age:.1f} s after it was replaced"

    def _may_be_stale(self, known: _Agent, read: Read, row: str, version: int | None) -> bool:
        """Whether a rule allows ``read`` to show this state of a row although it was replaced."""
        bound = self._limits.serve_stale(read.key)
        shown = (
            self._writes.ordinal(row, version)
            if version is not None
            else self._writes.absent(row, until=read.ended)
        )
        if not bound or shown is None or not read.attached or read.bound is not None:
            return False
        if shown < known.confirmed.get(row, 0):
            return False
        change = self._writes.change(row, shown + 1)
        if change is None:
            return True  # it is the last one
        # An earlier reset says nothing: the agent may have lost its connection before the change was applied.
        heard = [_first(known.announced.get(key, ()), change.before) for key in change.traces]
        if all(at is None for at in heard):
            heard.append(_first(known.resets, change.before))
            if change.before < known.opened:
                heard.append(known.opened)  # before that it heard nothing
        at = min((at for at in heard if at is not None), default=None)
        # Not heard of yet: then its own claim is what bounds it.
        return at is not None and read.began <= at + bound

    def _floor(self, known: _Agent, row: str, notices: int) -> int:
        floors = known.floors.get(row)
        if not floors:
            return 0
        place = bisect_right(floors, (notices, math.inf))
        return floors[place - 1][1] if place else 0

    def _is_unpromised(self, read: Read) -> bool:
        return any(since <= read.ended and read.began <= until for since, until in self._limits.unpromised)

    # --- the end --------------------------------------------------------------------------------

    def _final(self, place: str, record: Final) -> None:
        self._finals += 1
        for row, version in record.seen:
            last = self._writes.last(row)
            expected = last.version if last is not None and last.present else None
            if version != expected:
                self._wrong[f"{record.key} in {place}"] = None
                self._complain(
                    f"in the end {place} holds {record.key} with version {version} of {row}: {expected}"
                )

    def _complain(self, words: str) -> None:
        if len(self._complaints) < MOST_COMPLAINTS:
            self._complaints.append(words)


def _first(moments: Sequence[float], since: float) -> float | None:
    """The first of ``moments``, which grow, that is not before ``since``."""
    place = bisect_left(moments, since)
    return moments[place] if place < len(moments) else None

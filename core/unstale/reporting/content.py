"""Makes the report of one cache from its parts; no I/O."""

import math
from collections.abc import Callable, Iterable

from unstale.freshness.published_rules import KnownRules
from unstale.freshness.trust import Freshness
from unstale.near_cache.local_state import LocalState
from unstale.near_cache.tallies import OTHERS, Tally
from unstale.protocol.agent_reports import (
    MAX_NAME,
    MOST_FORMER,
    MOST_FORMER_BYTES,
    MOST_REPORTED,
    MOST_REPORTED_SHAPES,
    AgentReport,
    Counted,
    Shape,
    encode_report,
)
from unstale.protocol.newest_fills import NewestFills
from unstale.runtime.process_name import process_name
from unstale.version import __version__


class Content:
    """The content of an agent's reports.

    Example:
        >>> Content("web", parts.local, parts.freshness, parts.rules, fills, clock=parts.now).report()
        b'{"v":1,"name":"web",...'
    """

    def __init__(
        self,
        name: str,
        local: LocalState,
        freshness: Freshness,
        rules: KnownRules,
        fills: NewestFills,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._local = local
        self._freshness = freshness
        self._rules = rules
        self._fills = fills
        self._clock = clock
        self._started = clock()

    def report(self) -> bytes:
        """Return the report of this moment."""
        freshness, rules, now = self._freshness, self._rules, self._clock()
        host, _, pid = process_name().rpartition(":")
        staleness = freshness.staleness
        report = AgentReport(
            name=self._name,
            host=host,
            pid=int(pid),
            version=__version__,
            rules=rules.hash,
            epoch=freshness.epoch or "",
            last=freshness.last,
            running=round(now - self._started, 3),
            attached=round(now - freshness.attached_since, 3) if freshness.attached else None,
            staleness=round(staleness, 3) if math.isfinite(staleness) else None,
            near_entries=len(self._local.near),
            near_bytes=self._local.near.size,
            patterns=_largest(
                (
                    (tally.name, counted(tally))
                    for tally in rules.tallies.all
                    if tally.example == "" or tally.tagged  # a rule owns a tag of these keys
                ),
                most=MOST_REPORTED,
            ),
            # A rule may own by now what had no owner when it was counted.
            shapes={
                tally.name: Shape(counted(tally), tally.meant, tally.former)
                for tally in rules.tallies.shapes
                if not tally.tagged
                and counted(tally).reads
                and (tally.name == OTHERS or not rules.may_own(tally.example))
            },
            heard=freshness.marks.ages(now=now),
            former=_fitting(sorted(rules.former_used & rules.published.former_patterns)),
        )
        assert len(report.shapes) <= MOST_REPORTED_SHAPES + 1
        return encode_report(report, fills=self._fills.encode(now=now))

    def __repr__(self) -> str:
        return f"<Content {self._name!r}>"


def counted(tally: Tally) -> Counted:
    """Return the counts of a tally; hits of all threads together."""
    return Counted(
        tally.near_hits + tally.thread_hits.value,
        tally.redis_hits,
        tally.stale_hits + tally.slow_hits + tally.failed_hits,
        tally.misses,
        tally.loads,
        tally.early_loads,
        tally.fills,
        tally.fills_refused,
        tally.load_seconds,
        tally.longest_load,
    )


def _largest(tallies: Iterable[tuple[str, Counted]], *, most: int) -> dict[str, Counted]:
    """Return the ``most`` that are read most; the rest, and those with too long a name, are summed up."""
    used = sorted(
        ((name, each) for name, each in tallies if each != Counted()), key=lambda pair: -pair[1].reads
    )
    found: dict[str, Counted] = {}
    for name, each in used:
        name = name if len(found) < most and len(name) <= MAX_NAME else OTHERS
        found[name] = found.get(name, Counted()) + each
    return found


def _fitting(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return as many patterns as a report may have."""
    found, left = list[str](), MOST_FORMER_BYTES
    for pattern in patterns:
        if len(pattern) <= min(MAX_NAME, left):
            left -= len(pattern)
            found.append(pattern)
    return tuple(found[:MOST_FORMER])

"""What the checker is told and what it says."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What the promises leave open.

    Attributes:
        unpromised: Intervals in which bounds on reads are not promised. Reads that overlap one are counted in
            `Verdict.unpromised` when they break a bound.
        detached: Seconds a value may be old while detached, beyond the largest staleness the agent claimed.
        uncaptured: Intervals, and the beginning of the rows' names whose changes nothing captured then, as
            the worker says: no agent need be told of one.
        serve_stale: Seconds that the value of a key may be served after a change was announced; or 0.
    """

    unpromised: Sequence[tuple[float, float]] = ()
    detached: float = math.inf
    uncaptured: Sequence[tuple[float, float, str]] = ()
    serve_stale: Callable[[str], float] = lambda key: 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of all histories together.

    Attributes:
        reads: Reads checked.
        attached_reads: Those that began attached.
        stale: Wrong reads by kind: ``older``, ``late``, ``unbounded``, ``unreal``.
        served_stale: Reads that showed a replaced state as `Limits.serve_stale` allows.
        unpromised: Reads that broke a bound inside an interval where none is promised.
        lost: Changes some agent was not told of, as ``row@version``.
        wrong: Places and keys that differ from the database in the end.
        finals: Final values compared.
        worst: Seconds the oldest answer of an attached agent had surely been replaced when its read began.
        worst_detached: The same while detached.
        complaints: The first violations in words.
    """

    reads: int
    attached_reads: int
    stale: dict[str, int]
    served_stale: int
    unpromised: int
    lost: tuple[str, ...]
    wrong: tuple[str, ...]
    finals: int
    worst: float
    worst_detached: float
    complaints: tuple[str, ...]

    @property
    def stale_reads(self) -> int:
        """Wrong reads of any kind."""
        return sum(self.stale.values())

    @property
    def true(self) -> bool:
        """Whether every promise was kept."""
        return not (self.stale_reads or self.lost or self.wrong)

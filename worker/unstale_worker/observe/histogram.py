"""Counts of durations by size, as Prometheus wants them."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets, in seconds; one more bucket holds what is above."""


@dataclass(slots=True)
class Histogram:
    """Durations counted by bucket.

    Attributes:
        counts: How many are in each bucket of `BOUNDS`, and above.
        total: Sum of all durations in seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count ``count`` durations of ``seconds`` each."""
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.total += seconds * count

    def copy(self) -> "Histogram":
        """Return a copy that does not change any more."""
        return Histogram(self.counts[:], self.total)


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Estimate the duration that ``share`` of the counted ones do not exceed; None if there are none.

    It interpolates inside a bucket, as Prometheus does; what is above the last bound counts as that bound.
    """
    wanted, below = share * sum(counts), 0
    if not wanted:
        return None
    for number, count in enumerate(counts):
        if below + count >= wanted and count:
            if number == len(BOUNDS):
                return BOUNDS[-1]
            low = BOUNDS[number - 1] if number else 0.0
            return low + (BOUNDS[number] - low) * (wanted - below) / count
        below += count
    return BOUNDS[-1]

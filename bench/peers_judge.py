"""Staleness from what was recorded: when each version was acknowledged, and what each read returned.

A read is stale if it returned a version although a newer one had been acknowledged, longer than a grace
before the read began. All times are of one monotonic clock, which the processes of a machine share.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

GRACE: Final = 0.010
"""Seconds after an acknowledged commit during which an older answer is not counted as stale."""


@dataclass(frozen=True, slots=True)
class Read:
    key: int
    version: int
    began: float


@dataclass(frozen=True, slots=True)
class Staleness:
    reads: int
    behind: int
    """Reads that began after a newer version was acknowledged, by however little."""
    stale: int
    """Those of them that began more than the grace after it."""
    worst: float
    """Seconds between that acknowledgement and the start of the read, at most; 0: none was behind."""

    def __add__(self, other: "Staleness") -> "Staleness":
        return Staleness(
            self.reads + other.reads,
            self.behind + other.behind,
            self.stale + other.stale,
            max(self.worst, other.worst),
        )


class Commits:
    """When each version of each key was acknowledged."""

    def __init__(self, acknowledged: Iterable[tuple[int, int, float]]) -> None:
        """Take triples of key, version and time, in any order.

        Acknowledgements of two sessions may arrive in the wrong order. Version 3 replaces version 1 as well,
        so a version was replaced when the first of all newer ones was acknowledged.
        """
        found: dict[int, dict[int, float]] = {}
        for key, version, at in acknowledged:
            found.setdefault(key, {})[version] = at
        self._replaced: dict[int, list[tuple[int, float]]] = {}
        for key, versions in found.items():
            earliest, steps = float("inf"), []
            for version in sorted(versions, reverse=True):
                earliest = min(earliest, versions[version])
                steps.append((version, earliest))
            self._replaced[key] = steps[::-1]

    def replaced(self, key: int, version: int) -> float:
        """Time at which something newer than ``version`` was first acknowledged; inf: never."""
        for newer, at in self._replaced.get(key, ()):
            if newer > version:
                return at
        return float("inf")

    def judge(self, reads: Iterable[Read], *, grace: float = GRACE) -> Staleness:
        """Count the reads that were behind, and those that were so for longer than ``grace``."""
        number = behind = stale = 0
        worst = 0.0
        for read in reads:
            number += 1
            late = read.began - self.replaced(read.key, read.version)
            if late > 0:
                behind += 1
                stale += late > grace
                worst = max(worst, late)
        return Staleness(number, behind, stale, worst)


def gone_everywhere(
    acknowledged: Mapping[int, float], fresh: Sequence[Mapping[int, float]]
) -> tuple[list[float], int]:
    """Seconds from each commit until the last reader had the new version, and the number that never did.

    Each mapping of ``fresh`` is one reader's: when its first read began that returned the new version.
    """
    delays, never = [], 0
    for key, at in acknowledged.items():
        if all(key in reader for reader in fresh):
            delays.append(max(0.0, max(reader[key] for reader in fresh) - at))
        else:
            never += 1
    return delays, never

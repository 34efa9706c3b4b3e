"""Judges what an agent reads by what that agent had heard of. Pure: times come in."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from unstale import Invalidated
from unstale_worker.demo.reports import TRACE, Heard
from unstale_worker.demo.versions import FLOOR_ONLY

PAST: Final = 64
"""Versions of a row remembered with the time they were heard of."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a read must show.

    Attributes:
        floors: The version that each row must have at least, by what the agent had heard of.
        before: Everything committed before this moment must be in it, by what the cache claimed.
    """

    floors: Mapping[str, int]
    before: float


class Checker:
    """Remembers of which versions the agent has heard, and judges reads by it.

    It knows nothing of the cache: an invalidation names row and version in a ``trace:`` key of its own.
    """

    def __init__(self) -> None:
        self._floors: dict[str, int] = {}
        self._past: dict[str, deque[tuple[float, int]]] = {}
        self._heard: list[Heard] = []
        self._recent: deque[str] = deque(maxlen=3)
        self.invalidations = 0
        self.stale_reads = 0
        self.complaint = ""

    def process(self, event: Invalidated, *, at: float) -> None:
        """The near cache has dropped what ``event`` names; from now on older versions are stale."""
        shown = [key for key in event.keys if not key.startswith(TRACE)]
        self.invalidations += len(shown)
        # Old and new row are both named, in any order; the old one was heard of before.
        traces = [key.removeprefix(TRACE).rpartition(":") for key in event.keys if key.startswith(TRACE)]
        for version, source in sorted((int(number), source) for source, _, number in traces):
            if version > self._floors.get(source, 0):
                self._floors[source] = version
                self._past.setdefault(source, deque(maxlen=PAST)).append((at, version))
                if not source.startswith(FLOOR_ONLY):
                    self._heard.append(Heard(source, version, at))
        if shown:
            self._recent.append(
                ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
            )

    def floors(self, rows: tuple[str, ...]) -> dict[str, int]:
        """What a read that begins now must at least see."""
        return {row: self._floors.get(row, 0) for row in rows}

    def floors_at(self, rows: tuple[str, ...], *, at: float) -> dict[str, int]:
        """What had been heard of at a moment in the past; less, where it is not remembered that far."""
        return {
            row: max((version for heard, version in self._past.get(row, ()) if heard <= at), default=0)
            for row in rows
        }

    def judge(self, key: str, versions: Mapping[str, int], floors: Mapping[str, int]) -> None:
        """Count a stale read: a value older than what had been heard of when the read began."""
        for row, floor in floors.items():
            if versions[row] < floor:
                self.stale_reads += 1
                self.complaint = self.complaint or (
                    f"{key} came with version {versions[row]} of {row} in a read that began after the "
                    f"invalidation of version {floor}"
                )

    def taken(self) -> tuple[tuple[Heard, ...], tuple[str, ...]]:
        """What was heard since the last call, and its newest keys as text."""
        heard, self._heard = tuple(self._heard), []
        recent = tuple(self._recent)
        self._recent.clear()
        return heard, recent

"""Check reads of an agent against the invalidations it has received. Pure: times are arguments."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from unstale import Invalidated
from unstale_worker.demo.reports import TRACE, Heard
from unstale_worker.demo.versions import FLOOR_ONLY

PAST: Final = 64
"""Maximum versions of a row that are kept with the time of their invalidation."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Minimum freshness of a read.

    Attributes:
        floors: Minimum version of each row, from the invalidations that the agent has received.
        before: The read must contain every commit before this time, according to the claimed staleness.
    """

    floors: Mapping[str, int]
    before: float


class ReadChecker:
    """Records the versions in an agent's invalidations and checks its reads against them.

    It does not depend on the cache: each invalidation names row and version in a separate ``trace:`` key.
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
        """Record an event that the near cache has applied; from now on older versions are stale."""
        shown = [key for key in event.keys if not key.startswith(TRACE)]
        self.invalidations += len(shown)
        # The event names the old and the new row, in any order; the old version is known already.
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
        """Return the minimum versions for a read that begins now."""
        return {row: self._floors.get(row, 0) for row in rows}

    def floors_at(self, rows: tuple[str, ...], *, at: float) -> dict[str, int]:
        """Return the minimum versions at an earlier time; lower versions if the history is too short."""
        return {
            row: max((version for heard, version in self._past.get(row, ()) if heard <= at), default=0)
            for row in rows
        }

    def check(self, key: str, versions: Mapping[str, int], floors: Mapping[str, int]) -> None:
        """Count the read as stale if its value is older than an invalidation received before the read."""
        for row, floor in floors.items():
            if versions[row] < floor:
                self.stale_reads += 1
                self.complaint = self.complaint or (
                    f"{key} was read with version {versions[row]} of {row}, after the invalidation for "
                    f"version {floor}"
                )

    def take(self) -> tuple[tuple[Heard, ...], tuple[str, ...]]:
        """Return the invalidations since the last call, and the newest keys as text."""
        heard, self._heard = tuple(self._heard), []
        recent = tuple(self._recent)
        self._recent.clear()
        return heard, recent

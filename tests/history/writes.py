"""What was committed: every state of every row, in order, and between which moments it was current."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True)
class State:
    """What one committed transaction made of a row.

    Attributes:
        version: Never used twice for this row, and larger than those before it.
        present: False: the row was deleted.
        before: The commit had not happened yet at this moment.
        after: It surely had at this one.
    """

    version: int
    present: bool
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a row's history: what a cache must be told of.

    Attributes:
        row: The row.
        version: The new state's version.
        traces: Trace keys, each of which announces it if it comes after ``before``: of the new state (which
            nothing else can announce), or of the old one for a deletion.
        before: As in `State`.
        after: As in `State`.
    """

    row: str
    version: int
    traces: tuple[str, ...]
    before: float
    after: float


def trace(row: str, version: int) -> str:
    """The key by which an invalidation names a row's version: ``trace:item:5:17``. It holds no value."""
    return f"trace:{row}:{version}"


def untrace(key: str) -> tuple[str, int]:
    """Row and version of a trace key."""
    row, _, version = key.removeprefix("trace:").rpartition(":")
    return row, int(version)


class Writes:
    """The committed states of every row.

    Moments are known only as brackets, so the edges are tightened by what order implies: a state began to be
    current no earlier than any before it could have, and was committed for sure when any later one was.

    Example:
        >>> writes = Writes({"item:5": [State(1, True, 0.0, 0.1), State(2, True, 3.0, 3.1)]})
        >>> writes.replaced("item:5", 0)
        3.1
    """

    def __init__(self, rows: dict[str, list[State]]) -> None:
        self._rows = rows
        self._versions = {row: [state.version for state in states] for row, states in rows.items()}
        for row, versions in self._versions.items():
            if any(later <= earlier for earlier, later in pairwise(versions)):
                raise ValueError(f"the versions of {row} do not grow: {versions}")
        self._began = {
            row: list(accumulate((state.before for state in states), max)) for row, states in rows.items()
        }
        self._surely = {
            row: list(accumulate((state.after for state in reversed(states)), min))[::-1]
            for row, states in rows.items()
        }

    def __repr__(self) -> str:
        return f"<Writes {len(self._rows)} rows, {sum(map(len, self._rows.values()))} states>"

    def ordinal(self, row: str, version: int) -> int | None:
        """Which state of the row that version is, from 0; None: it was never committed."""
        versions = self._versions.get(row, [])
        place = bisect_left(versions, version)
        return place if place < len(versions) and versions[place] == version else None

    def at_least(self, row: str, version: int) -> int:
        """The first state with that version or a newer one."""
        return bisect_left(self._versions.get(row, []), version)

    def absent(self, row: str, *, until: float) -> int | None:
        """The newest state in which the row did not exist and that may have begun before ``until``."""
        states, began = self._rows.get(row, []), self._began.get(row, [])
        return next(
            (n for n in reversed(range(len(states))) if not states[n].present and began[n] < until), None
        )

    def present(self, row: str, ordinal: int) -> bool:
        """Whether the row exists in that state."""
        return self._rows[row][ordinal].present

    def began(self, row: str, ordinal: int) -> float:
        """Before this moment that state was surely not committed."""
        return self._began[row][ordinal]

    def replaced(self, row: str, ordinal: int) -> float:
        """From this moment on that state was surely not current any more; infinite for the last one."""
        surely = self._surely[row]
        return surely[ordinal + 1] if ordinal + 1 < len(surely) else float("inf")

    def last(self, row: str) -> State | None:
        """The row's final state."""
        states = self._rows.get(row)
        return states[-1] if states else None

    def changes(self) -> list[Change]:
        """Every step of every row but its first state, by the moment it was surely committed."""
        return sorted(self._changes(), key=lambda change: change.after)

    def change(self, row: str, ordinal: int) -> Change | None:
        """What made that state of the row, or None for the first one and those that never were."""
        states = self._rows.get(row, [])
        if not 0 < ordinal < len(states):
            return None
        state = states[ordinal]
        told = state if state.present else states[ordinal - 1]
        traces = (trace(row, told.version),)
        return Change(row, state.version, traces, self._began[row][ordinal], self._surely[row][ordinal])

    def _changes(self) -> Iterator[Change]:
        for row, states in self._rows.items():
            for ordinal in range(1, len(states)):
                change = self.change(row, ordinal)
                assert change is not None
                yield change

    @property
    def rows(self) -> Iterable[str]:
        """Every row."""
        return self._rows.keys()

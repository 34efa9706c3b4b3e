"""What was committed and when: brackets that writers note down, joined with the database's own journal."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

import orjson

from history import State, Writes

Rows = list[tuple[str, int, bool]]
"""Row, version, and whether the row exists in it."""


class Commits:
    """Notes down commits, each at once, so that a killed process has noted all it did but the last."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """Append to a file."""
        with path.open("ab", buffering=0) as file:
            yield cls(file)

    def add(self, before: float, after: float | None, rows: Rows) -> None:
        """``after`` None: nobody knows whether it was committed."""
        if rows:
            self._file.write(orjson.dumps([before, after, rows]) + b"\n")


def join(paths: Iterable[Path], journal: Iterable[tuple[str, int, bool]], *, end: float) -> Writes:
    """The states of every row: what the journal holds, in its order, with the moments that writers noted.

    ``end`` is when the journal was read. What no writer noted (it was killed after its commit) may have been
    committed at any moment until then. Raises `AssertionError` when an acknowledged commit is missing from
    the journal: then the database lost it, and nothing can be judged.
    """
    moments: dict[tuple[str, int], tuple[float, float]] = {}
    acknowledged: set[tuple[str, int]] = set()
    for path in paths:
        for line in path.read_bytes().splitlines():
            try:
                before, after, rows = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # the last line of a killed process
            for row, version, _ in rows:
                moments[row, version] = (before, end if after is None else after)
                if after is not None:
                    acknowledged.add((row, version))
    states: dict[str, list[State]] = {}
    for row, version, present in journal:
        first = row not in states
        before, after = moments.get((row, version), (0.0, 0.0 if first else end))
        states.setdefault(row, []).append(State(version, present, before, after))
        acknowledged.discard((row, version))
    assert not acknowledged, f"Postgres lost acknowledged commits: {sorted(acknowledged)[:5]}"
    return Writes(states)

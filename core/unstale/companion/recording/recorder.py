"""Writes down what the loaders of this process read. There is at most one recorder in a process."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unstale.companion.recording.reading import Observation, Reading, guessed_hole, holes_of, shape_of
from unstale.reading import load_chain

if TYPE_CHECKING:
    import asyncpg

logger = logging.getLogger("unstale")

MOST: Final = 50_000
"""Most pairs of a key's shape and a statement that one process writes down."""
LONGEST: Final = 400
"""Most characters of a statement that are written down."""

RAN: Final = "loaders-ran"
"""Name of an empty file in the folder of a recording: a loader has run, in whatever way it reads."""

_current: "Recorder | None" = None
_refused: set[str] = set()


class Recorder:
    """Appends observations to a file of this process in a folder.

    Args:
        folder: A folder that exists while somebody records; without it nothing is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._readings: dict[tuple[str, ...], Reading] = {}
        self._written: set[tuple[str, ...]] = set()

    def ran(self) -> None:
        """Write down that a loader runs. The first says it for all."""
        load_chain.entered = None
        with suppress(OSError):  # the recording is over
            (self.folder / RAN).touch()

    async def statement(
        self, connection: "asyncpg.Connection[Any]", statement: str, arguments: Sequence[object]
    ) -> None:
        """Record a statement that is about to run on ``connection``, if a loader runs it."""
        from unstale.companion.recording.explain import explain, sql

        keys = loading()
        if not keys:
            return
        role, path = await connection.fetchrow(sql("session")) or ("", "")
        reading = self._readings.get((statement, role, path))
        if reading is None:
            reading = self._readings[statement, role, path] = await explain(connection, statement)
        self.note(keys, statement, arguments, reading)

    def note(
        self,
        keys: Mapping[str, Sequence[str]],
        statement: str,
        arguments: Sequence[object],
        reading: Reading,
    ) -> None:
        """Write down what loaders of ``keys`` read, once for each shape of key and tags, and statement."""

        def holes_in(name: str) -> dict[int, int]:
            return holes_of(name, arguments) if arguments else guessed_hole(name, reading)

        for key, tags in keys.items():
            holes = holes_in(key)
            shape = shape_of(key, holes)
            tagged = {tag: holes_in(tag) for tag in tags}
            identity = (shape, statement, *sorted(shape_of(tag, its) for tag, its in tagged.items()))
            if identity in self._written or len(self._written) >= MOST:
                continue
            self._written.add(identity)
            text = " ".join(statement.split())[:LONGEST]
            line = Observation(key, shape, holes, text, reading, tagged).encode() + "\n"
            try:
                with (self.folder / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError:  # the recording is over
                return


def loading() -> dict[str, tuple[str, ...]]:
    """Return the keys whose loaders have called the code that runs now, also through other loads.

    Each has the tags of its value.
    """
    found: dict[str, tuple[str, ...]] = {}
    loads = list(load_chain.chain())
    while loads:
        load = loads.pop()
        if load.key not in found:
            found[load.key] = load.tags
            loads += load.outer
    return found


def start(folder: Path) -> Recorder:
    """Record in this process from now on, for connections that are opened from now on."""
    global _current
    _current = Recorder(folder)
    load_chain.entered = _current.ran
    return _current


def stop() -> None:
    """Record no more."""
    global _current
    load_chain.entered = None
    _current = None


def current(folder: str | None) -> Recorder | None:
    """Return the recorder of this process; ``folder`` is what `UNSTALE_LEARN` names, and starts one.

    A folder that does not exist starts none: no `unstale learn` waits for it.
    """
    if _current is not None or folder is None:
        return _current
    if not Path(folder).is_dir():
        if folder not in _refused:
            _refused.add(folder)
            logger.warning("UNSTALE_LEARN is set, but no `unstale learn` runs: statements are not recorded")
        return None
    logger.warning("the statements of loaders are recorded (UNSTALE_LEARN); not for production")
    return start(Path(folder))

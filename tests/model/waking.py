"""The moment of falling asleep: no commit goes unheard by a worker that waits for NOTIFY.

Captures notify only while a worker wants it, which they read from a sequence: at once, not by a snapshot. A
transaction may read "not wanted", and commit after the worker fell asleep. The promise: a worker that waits
without a hint has read everything that is committed. Nobody waits for anybody.

Time is not modelled, except that what a worker asked for may lapse while it polls: one that sleeps asks again
in time.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .checker import Move
from .states import state

WRITERS: Final = (0, 1, 2)

WAKING_CAUGHT: Final = (
    "writers that may be silent are waited for",
    "the entry before the question",
    "listed after asking",
    "one more read",
    "a new worker counts every writer",
    "an end of sleep counts every writer",
    "asked again in time",
)
"""What can be switched off."""

UNHEARD = "waking: a change is committed, and the worker waits for a hint that never comes"

Writers = frozenset[int]
NOBODY: Final[Writers] = frozenset()


@state
class Night(NamedTuple):
    """The sequence, the writers, and the worker."""

    wanted: bool = False  # unstale.notify_wanted
    entered: Writers = NOBODY  # wrote an entry: they lock the outbox until they end
    told: tuple[tuple[int, bool], ...] = ()  # read the sequence, and what it said
    committed: Writers = NOBODY
    ended: Writers = NOBODY
    worker: str = "awake"  # asks, listed, lists, reads, sleeps
    counted: bool = False  # `silent` is of a time since which NOTIFY has been wanted
    silent: Writers = NOBODY
    hint: bool = False
    read: Writers = NOBODY
    died: bool = False


class Waking:
    """A model of the captures' end and of `NotifyWakeUps`; ``off`` is one of `WAKING_CAUGHT`."""

    def __init__(self, off: str = "") -> None:
        self._off = off

    def start(self) -> Night:
        """Nobody has written, and the worker polls."""
        return Night()

    def moves(self, at: Night) -> Iterator[Move[Night]]:
        """A step of a writer or of the worker."""
        for writer in WRITERS:
            yield from self._writer(at, writer)
        yield from self._worker(at)
        lapses = at.worker == "awake" or self._off == "asked again in time"
        if at.wanted and lapses:
            lapsed = at._replace(wanted=False, counted=at.counted and self._off == "asked again in time")
            yield "what was asked for lapses", lapsed, None
        if not at.died and at.worker != "awake":
            # The next one polls at first, and knows of no writer.
            kept = self._off == "a new worker counts every writer" and at.wanted
            yield (
                "the worker dies",
                at._replace(worker="awake", counted=kept, silent=NOBODY, hint=False, died=True),
                None,
            )

    def _writer(self, at: Night, writer: int) -> Iterator[Move[Night]]:
        if writer in at.ended:
            return
        told = dict(at.told)
        asks_first = self._off == "the entry before the question"
        if writer not in at.entered and (not asks_first or writer in told):
            yield f"{writer} writes an entry", at._replace(entered=at.entered | {writer}), None
        if writer not in told and (asks_first or writer in at.entered):
            answered = tuple(sorted({**told, writer: at.wanted}.items()))
            yield f"{writer} reads whether NOTIFY is wanted", at._replace(told=answered), None
        if writer in told and writer in at.entered:
            # A worker that does not listen loses the hint, and reads everything when it starts.
            done = at._replace(ended=at.ended | {writer}, entered=at.entered - {writer})
            yield f"{writer} rolls back", done, None
            hint = at.hint or told[writer]
            yield f"{writer} commits", done._replace(committed=at.committed | {writer}, hint=hint), None

    def _worker(self, at: Night) -> Iterator[Move[Night]]:
        if at.worker == "awake":
            yield "the worker reads", at._replace(read=at.committed, hint=False), None
            if self._off == "listed after asking":
                listed = at._replace(worker="listed", silent=self._listed(at), hint=False)
                yield "the worker lists writers", listed, None
            else:
                yield "the worker asks for NOTIFY", at._replace(worker="asks", wanted=True, hint=False), None
        elif at.worker == "listed":
            yield "the worker asks for NOTIFY", self._asked(at._replace(wanted=True)), None
        elif at.worker == "asks":
            yield "the worker lists writers", self._asked(at._replace(silent=self._listed(at))), None
        elif at.worker == "reads":
            yield "the worker reads once more", at._replace(worker="sleeps", read=at.committed), None
        elif at.hint:
            yield "the worker is woken, and reads", at._replace(hint=False, read=at.committed), None
        if at.worker == "sleeps":
            kept = self._off == "an end of sleep counts every writer"
            yield "the worker stays awake", at._replace(worker="awake", wanted=False, counted=kept), None

    def _listed(self, at: Night) -> Writers:
        return at.silent & at.entered if at.counted else at.entered

    def _asked(self, at: Night) -> Night:
        at = at._replace(counted=True)
        if at.silent and self._off != "writers that may be silent are waited for":
            return at._replace(worker="awake")
        return at._replace(worker="sleeps" if self._off == "one more read" else "reads", silent=NOBODY)

    def broken(self, at: Night) -> str | None:
        """A worker that waits without a hint has read everything."""
        return UNHEARD if at.worker == "sleeps" and not at.hint and at.committed - at.read else None

    def at_rest(self, at: Night) -> bool:
        """All writers have ended, and the worker sleeps."""
        return len(at.ended) == len(WRITERS) and at.worker == "sleeps"

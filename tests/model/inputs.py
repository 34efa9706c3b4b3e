"""Fingerprints: a value whose loader would read the same inputs again is stored again without a load.

A refresher takes the key's lease, hashes the inputs, and then loads, or stores the kept value again. The
inputs may change at any moment, also to what they were before, between the hash and the load. A value is as
good as the inputs that it was made of, so the model takes these for the value.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .checker import Move
from .states import state

LAST: Final = 2
INPUTS: Final = (0, 1, 0, 0)
"""The inputs after each number of changes: they change, change back, and change in what is not hashed."""

INPUTS_CAUGHT: Final = (
    "the inputs are hashed under the lease",
    "a change during the load voids the fingerprint",
    "a reader's fill removes the fingerprint",
)
"""What can be switched off."""

INPUTS_MASKED: Final = {
    "only under the lease is it stored again": "what takes the lease removes the kept value, or voids it",
}
"""What is not missed when it is off, and what covers for it."""

WRONG = "inputs: Redis holds a value of inputs that no state since the position has had"


@state
class Noted(NamedTuple):
    """The fingerprint in Redis: of which inputs, and when it was stored."""

    inputs: int
    at: int


@state
class Moment(NamedTuple):
    """The state."""

    now: int = 0
    changes: int = 0
    position: int = 0
    read_at: int = 0  # when the newest read began that a watermark announced
    reading: tuple[int, int] | None = None  # the worker's read: began, and the changes it saw
    value: int | None = None
    lease: int = 0  # 1: a reader's, 2: a refresher's
    kept: tuple[int, int] | None = None  # a value, and the `read_at` before the change that removed it
    noted: Noted | None = None
    reader: int | None = None  # the value that a reader has loaded under its lease
    hashed: int | None = None  # the refresher's hash
    loaded: int | None = None  # what its loader has returned


class Inputs:
    """A model of ``refresh_rearm.lua``; ``off`` is one of `INPUTS_CAUGHT`."""

    def __init__(self, off: str = "") -> None:
        self._off = off

    def start(self) -> Moment:
        """Nothing is cached."""
        return Moment()

    def moves(self, at: Moment) -> Iterator[Move[Moment]]:
        """Time passes, or somebody does something in no time."""
        if at.now < LAST:
            yield f"it is {at.now + 1}", at._replace(now=at.now + 1), None
        if at.changes + 1 < len(INPUTS):
            yield "a change commits", at._replace(changes=at.changes + 1), None
        if at.reading is None:
            yield "the worker begins a read", at._replace(reading=(at.now, at.changes)), None
        else:
            yield "the worker has applied it", self._applied(at, *at.reading), None
        yield from self._reader(at)
        yield from self._refresher(at)

    def _applied(self, at: Moment, began: int, saw: int) -> Moment:
        if saw > at.position:
            kept = at.kept if at.value is None else (at.value, at.read_at)
            at = at._replace(value=None, lease=0, kept=kept, position=saw)
        return at._replace(reading=None, read_at=began)

    def _reader(self, at: Moment) -> Iterator[Move[Moment]]:
        """A reader fills without a fingerprint."""
        if at.reader is None:
            if at.value is None and not at.lease:
                after = at._replace(lease=1, reader=INPUTS[at.changes])
                yield "a reader takes the lease and loads", after, None
        elif at.lease == 1:
            noted = at.noted if self._off == "a reader's fill removes the fingerprint" else None
            yield "it fills", at._replace(lease=0, value=at.reader, kept=None, reader=None, noted=noted), None
        else:
            yield "its fill is refused", at._replace(reader=None), None

    def _refresher(self, at: Moment) -> Iterator[Move[Moment]]:
        early = self._off == "the inputs are hashed under the lease"
        if at.hashed is None and early:
            yield "a refresher hashes the inputs", at._replace(hashed=INPUTS[at.changes]), None
            return
        if at.loaded is None and at.lease != 2 and (at.hashed is None or early):
            if at.value is None and not at.lease:
                yield "it takes the lease", at._replace(lease=2), None
            return
        if at.hashed is None:
            yield "it hashes the inputs", at._replace(hashed=INPUTS[at.changes]), None
            return
        if at.loaded is None:
            yield "it loads", at._replace(loaded=INPUTS[at.changes]), None
            if self._may_be_kept(at, at.hashed) and at.kept is not None:
                after = at._replace(hashed=None, lease=0, value=at.kept[0], kept=None)
                yield "it stores the kept value again", after, None
            return
        after = at._replace(hashed=None, loaded=None)
        if at.lease != 2:
            yield "its fill is refused", after, None
            return
        noted = Noted(at.hashed, at.now)
        yield "it fills", after._replace(lease=0, value=at.loaded, kept=None, noted=noted), None

    def _may_be_kept(self, at: Moment, hashed: int) -> bool:
        if at.noted is None or at.kept is None or at.noted.inputs != hashed:
            return False
        if at.lease != 2 and self._off != "only under the lease is it stored again":
            return False
        return at.kept[1] > at.noted.at or self._off == "a change during the load voids the fingerprint"

    def broken(self, at: Moment) -> str | None:
        """A value in Redis was made of inputs that the position, or a later state, has."""
        if at.value is None or at.value in INPUTS[at.position : at.changes + 1]:
            return None
        return WRONG

    def at_rest(self, at: Moment) -> bool:
        """The end of time, and everything is applied."""
        return at.now == LAST and at.position == at.changes

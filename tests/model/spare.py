"""Spare values: a copy of the last value that outlives it, for readers whose loader fails or is slow.

A fill stores the copy beside the value, for the value's life and the bound. A change may only bring its end
nearer: to the bound after the read that came before the change. Purges, patterns and an agent's own delete
remove it. The model has a clock, one key, its changes, a worker that may pause or die, and a reader.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from .checker import Move
from .states import state

BOUND: Final = 2
"""How long after its end a value may be answered: ``stale_if_error``."""
TTL: Final = 1
MAX_SILENCE: Final = 1
"""How old the newest watermark may be: an agent that is not attached answers no spare value."""
LAST: Final = 4

Kinds: TypeAlias = tuple[str, ...]
SPARE_CHANGES: Final[tuple[Kinds, ...]] = (
    ("changed", "changed"),
    ("changed", "purged"),
    ("pattern",),
    ("own",),
)
"""What commits, in this order, in each variant."""
SPARE_CAUGHT: Final = {
    "a change brings the end nearer": ("changed", "changed"),
    "a later change never puts it off": ("changed", "changed"),
    "the bound counts from the read before": ("changed", "changed"),
    "a purge removes it": ("changed", "purged"),
    "a pattern removes it": ("pattern",),
    "the key, then its spare value": ("pattern",),
    "a refused fill stores none": ("own",),
    "delete removes it": ("own",),
}
"""What can be switched off, and in which variant it is missed."""

TOO_LATE = "stale_if_error: a value is answered longer after its end than the bound allows"
PURGED = "purge: a value from before a purge or a pattern is still kept"
OWN = "own write: a value from before an agent's own delete is still kept"


@state
class Change(NamedTuple):
    """One committed change."""

    at: int
    kind: str  # "changed", "purged", "pattern", "own": the agent that made it deletes the key itself


@state
class Moment(NamedTuple):
    """The state. A version is the number of changes that a value contains."""

    now: int = 0
    changes: tuple[Change, ...] = ()
    read_at: int = 0  # in Redis: when the newest read began that a watermark announced
    reading: tuple[int, int] | None = None  # the worker's read: began, and the changes it saw
    scanned: int = 0  # what a pattern has dropped so far: 1 the key or its spare value, 2 both
    applied: int = 0  # the position
    deleted: int = 0  # the changes that own deletes covered
    value: tuple[int, int] | None = None  # version, expires
    lease: bool = False  # a lease of the reader stands at the key
    spare: tuple[int, int] | None = None  # version, expires
    loaded: int | None = None  # the reader has loaded this version, under a lease that it took
    claimed: bool = False


class Spare:
    """A model of ``fill.lua``, ``apply.lua`` and ``direct.lua``; ``off`` is one of `SPARE_CAUGHT`."""

    def __init__(self, changes: Kinds, *, off: str = "") -> None:
        self._kinds, self._off = changes, off

    def start(self) -> Moment:
        """Nothing is cached, and a watermark has just been published."""
        return Moment()

    def moves(self, at: Moment) -> Iterator[Move[Moment]]:
        """Time passes, or somebody does something in no time."""
        if at.now < LAST:
            yield f"it is {at.now + 1}", _expired(at._replace(now=at.now + 1)), None
        if len(at.changes) < len(self._kinds):
            change = Change(at.now, self._kinds[len(at.changes)])
            yield f"a change commits: {change.kind}", at._replace(changes=(*at.changes, change)), None
        yield from self._worker(at)
        yield from self._reader(at)

    # --- the worker -----------------------------------------------------------------------------

    def _worker(self, at: Moment) -> Iterator[Move[Moment]]:
        if at.reading is None:
            yield "the worker begins a read", at._replace(reading=(at.now, len(at.changes))), None
            return
        began, saw = at.reading
        yield "the worker dies", at._replace(reading=None, scanned=0), None
        new = at.changes[at.applied : saw]
        if any(change.kind == "pattern" for change in new) and at.scanned < 2:
            yield "a pattern drops a key", self._scanned(at), None
            return
        after = at._replace(reading=None, scanned=0, applied=max(at.applied, saw), read_at=began)
        if new:
            after = after._replace(value=None, lease=False)
            after = after._replace(spare=self._bounded(at, [change.kind for change in new]))
        yield "the worker has applied it, and says so", after, None

    def _bounded(self, at: Moment, kinds: list[str]) -> tuple[int, int] | None:
        """What ``apply.lua`` does to the spare value."""
        if at.spare is None or ("purged" in kinds and self._off != "a purge removes it"):
            return None
        if self._off == "a change brings the end nearer":
            return at.spare
        version, ends = at.spare
        until = (at.now if self._off == "the bound counts from the read before" else at.read_at) + BOUND
        if self._off != "a later change never puts it off":
            until = min(ends, until)
        return (version, until) if until > at.now else None

    def _scanned(self, at: Moment) -> Moment:
        """One step of the scans of a pattern."""
        spare_now = at.scanned == (0 if self._off == "the key, then its spare value" else 1)
        at = at._replace(scanned=at.scanned + 1)
        if not spare_now:
            return at._replace(value=None, lease=False)
        return at if self._off == "a pattern removes it" else at._replace(spare=None)

    # --- the agents -----------------------------------------------------------------------------

    def _reader(self, at: Moment) -> Iterator[Move[Moment]]:
        own = sum(change.kind == "own" for change in at.changes)
        if own > at.deleted:
            after = at._replace(value=None, lease=False, deleted=own)
            if self._off != "delete removes it":
                after = after._replace(spare=None)
            yield "the agent deletes the key", after, None
        if not at.claimed:
            if at.value is None and not at.lease:
                yield "a reader takes the lease", at._replace(lease=True, claimed=True), None
            return
        yield "its loader fails", at._replace(lease=False, claimed=False, loaded=None), None
        if at.loaded is None:
            yield "it loads", at._replace(loaded=len(at.changes)), None
            return
        after = at._replace(claimed=False, loaded=None, lease=False)
        spare = (at.loaded, at.now + TTL + BOUND)
        if at.lease:
            yield "it fills", after._replace(value=(at.loaded, at.now + TTL), spare=spare), None
        elif self._off == "a refused fill stores none":
            yield "its fill is refused", after._replace(spare=spare), None
        else:
            yield "its fill is refused", after, None

    # --- promises -------------------------------------------------------------------------------

    def broken(self, at: Moment) -> str | None:
        """While the spare value stands, a reader whose loader fails is answered with it."""
        if at.spare is None:
            return None
        version, _ = at.spare
        attached = at.now <= at.read_at + MAX_SILENCE
        if attached and at.changes[version:] and at.now > at.changes[version].at + BOUND:
            return TOO_LATE
        if any(change.kind in ("purged", "pattern") for change in at.changes[version : at.applied]):
            return PURGED
        own = [number for number, change in enumerate(at.changes) if change.kind == "own"][: at.deleted]
        return OWN if own and own[-1] >= version else None

    def at_rest(self, at: Moment) -> bool:
        """The end of time, and everything is applied."""
        return at.now == LAST and at.applied == len(at.changes)


def _expired(at: Moment) -> Moment:
    value = at.value if at.value is not None and at.value[1] > at.now else None
    spare = at.spare if at.spare is not None and at.spare[1] >= at.now else None
    return at._replace(value=value, spare=spare)

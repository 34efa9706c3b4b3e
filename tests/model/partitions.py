"""Several partitions in a cluster: one outbox, one worker, and a position of its own in every partition.

The other models are about one partition. New here: changes that touch several partitions,
whose scripts run in any order; the read that serves all of them; a partition that fails over or loses its
position alone, while the other goes on; one that a batch does not concern, and whose position follows later;
a token that waits for all; and a slot that moves key by key while a pattern is scanned.

Two partitions with one key each, a reader for each, and two transactions. The first changes both keys. The
second, a TRUNCATE, concerns partition 1 alone, by a pattern. The order of commits is modelled elsewhere, so a
position is a number here: that of the transactions applied.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .checker import Move
from .states import state

PARTITIONS_CAUGHT: Final = {
    "the read starts at the oldest position": "loss",
    "a position moves with the effects in its own partition": "failover",
    "a partition that begins again starts at its stored position": "failover",
    "a partition without a position drops its keys": "loss",
    "a token waits for every partition": "failover",
    "a scan counts only if its slot stayed where it was": "migration",
    "a slot that was here before does not bring its old history back": "migration",
    "a script needs all its keys on one node": "migration",
}
"""What can be switched off, and what has to happen for a promise to break without it."""

FAULTS: Final = ("failover", "loss", "migration")
"""A failover of partition 0 that loses a write, the loss of the state of 1, moves of the slot of 1."""
TOUCHES: Final = ((0, 1), (1,))
"""The partitions that each transaction concerns. The last transaction concerns them by a pattern."""
FORGOTTEN: Final = -2
"""The position of what a worker may not use again."""
TIER = "tier: a partition holds a value older than its position promises"
TOKEN = "token: a value is older than a transaction that wait_for says is applied"
NEAR = "near: an invalidation was not announced, and the epoch goes on"
SETTLED = "settled: nothing is left to do, and a value differs from the database"


@state
class Part(NamedTuple):
    """One partition's data."""

    position: int = 0  # -1: lost
    value: int = -1  # the transactions that it contains; -1: none stands there
    lease: int = 0  # 0: none
    run: int = 0  # the run that the epoch belongs to; -1: of none that comes again
    unheard: bool = False  # ghost: something was removed that no agent hears of in this epoch


@state
class Read(NamedTuple):
    """The read in flight of one partition's key."""

    lease: int = 0
    seen: int = -1


@state
class Slot(NamedTuple):
    """Where the keys of partition 1 are."""

    moving: bool = False
    value_moved: bool = False
    state_moved: bool = False
    owner: int = 0
    moves: int = 0  # moves that ended, which is what CLUSTER NODES counts in the owner's epoch


@state
class Task(NamedTuple):
    """What the worker has to do in one partition in this cycle."""

    position: int  # as it was read
    run: int
    come: int = 0  # everything up to here is applied in it, or does not concern it
    scanned: int = -1  # the moves of the slot before the SCAN; -1: not scanned


@state
class World(NamedTuple):
    """The state."""

    commits: int = 0
    parts: tuple[Part, Part] = (Part(), Part())
    live: tuple[int, int] = (0, 0)  # the run of the server of each partition
    before: Part | None = None  # what a failover of partition 0 goes back to
    fault: bool = False  # it has happened
    slot: Slot = Slot()
    reads: tuple[Read, Read] = (Read(), Read())
    tasks: tuple[Task | None, Task | None] = (None, None)
    kept: tuple[Task | None, Task | None] = (None, None)  # of the cycle before, so that no state is read
    upto: int = -1  # of the read of the outbox in this cycle; -1: it was not read yet
    begin: int = 0
    deleted: bool = False


class Partitions:
    """A model of the worker on a cluster; ``fault`` is one of `FAULTS`, ``off`` one of the rules above."""

    def __init__(self, fault: str, off: str = "") -> None:
        self._fault, self._off = fault, off

    def start(self) -> World:
        """Nothing is cached."""
        return World()

    def moves(self, at: World) -> Iterator[Move[World]]:
        """One step of the database, a server, the worker or a reader."""
        if at.commits < len(TOUCHES):
            yield "a commit", at._replace(commits=at.commits + 1), None
        yield from self._faults(at)
        yield from self._reader(at, 0 if self._fault == "failover" else 1)
        yield from self._worker(at)

    # --- servers --------------------------------------------------------------------------------

    def _faults(self, at: World) -> Iterator[Move[World]]:
        if self._fault == "failover" and at.before is not None and not at.fault:
            back = _set(at.parts, 0, at.before)
            yield "a failover of 0", at._replace(parts=back, live=(1, at.live[1]), fault=True), None
        if self._fault == "loss" and not at.fault:
            lost = _set(at.parts, 1, at.parts[1]._replace(position=-1))
            yield "1 loses its state", at._replace(parts=lost, fault=True), None
        if self._fault == "migration":
            yield from self._migration(at, at.slot)

    def _migration(self, at: World, slot: Slot) -> Iterator[Move[World]]:
        part = at.parts[1]
        if not slot.moving:
            if slot.moves < 2:
                yield "the slot begins to move", at._replace(slot=slot._replace(moving=True)), None
        else:
            if not slot.value_moved:
                yield "its value moves", at._replace(slot=slot._replace(value_moved=True)), None
            if not slot.state_moved:
                yield "its state moves", at._replace(slot=slot._replace(state_moved=True)), None
            if slot.value_moved and slot.state_moved:
                moved = Slot(owner=1 - slot.owner, moves=slot.moves + 1)
                live = (at.live[0], moved.owner)  # the first owner may own it again, with the run it had
                yield "the slot has moved", at._replace(slot=moved, live=live), None
        whole = not (slot.moving and slot.state_moved) and self._whole(at, 1)
        if not at.deleted and whole:
            # direct.lua: it announces only in a live epoch
            unheard = part.run != at.live[1]
            lost = "a slot that was here before does not bring its old history back"
            run = -1 if unheard and self._off != lost else part.run
            gone = part._replace(value=-1, lease=0, run=run, unheard=part.unheard or unheard)
            yield "an agent deletes", at._replace(parts=_set(at.parts, 1, gone), deleted=True), None

    def _whole(self, at: World, number: int) -> bool:
        """Return True if a script that names the key finds it, or its absence, beside the state.

        A key that is absent here may be at the other node: ASK or TRYAGAIN. Both redirect to nothing that
        unstale follows.
        """
        slot = at.slot
        if number == 0 or not slot.moving:
            return True
        if self._off == "a script needs all its keys on one node":
            return not slot.state_moved
        part = at.parts[1]
        present = part.value >= 0 or part.lease > 0
        return present and not slot.value_moved and not slot.state_moved

    # --- readers --------------------------------------------------------------------------------

    def _reader(self, at: World, number: int) -> Iterator[Move[World]]:
        read, part = at.reads[number], at.parts[number]
        if part.lease:
            yield f"the lease of {number} runs out", self._kept(at, number, part._replace(lease=0)), None
        if not read.lease:
            absent = part.value < 0 and not part.lease and part.position >= 0
            if absent and not (number == 1 and at.slot.moving):
                used = {part.lease, at.before.lease if at.before and number == 0 else 0}
                lease = min({1, 2, 3} - used)
                after = self._kept(at, number, part._replace(lease=lease))
                yield f"{number} is claimed", _reading(after, number, Read(lease)), None
        elif read.seen < 0:
            yield f"{number} is loaded", _reading(at, number, read._replace(seen=at.commits)), None
        elif self._whole(at, number) or part.lease != read.lease:
            after = _reading(at, number, Read())
            if part.lease == read.lease and part.position >= 0:
                after = self._kept(after, number, part._replace(value=read.seen, lease=0))
            yield f"{number} is filled", after, None

    # --- the worker -----------------------------------------------------------------------------

    def _worker(self, at: World) -> Iterator[Move[World]]:
        if at.upto < 0:
            for number in (0, 1):
                kept = at.kept[number]
                if at.tasks[number] is None and kept is not None and kept.position != FORGOTTEN:
                    after = _kept_task(at, number, None)
                    yield f"{number} goes on", after._replace(tasks=_task(after, number, kept)), None
                elif at.tasks[number] is None and not (
                    number == 1 and at.slot.moving and at.slot.state_moved
                ):
                    part = at.parts[number]
                    if part.run != at.live[number]:
                        # new_epoch.lua: agents drop everything
                        begun = part._replace(run=at.live[number], unheard=False)
                        yield f"a new epoch in {number}", self._kept(at, number, begun), None
                    else:
                        come = part.position if kept is None or part.position < 0 else kept.come
                        after = _kept_task(at, number, None)
                        tasks = _task(after, number, Task(part.position, at.live[number], come))
                        yield f"the state of {number} is read", after._replace(tasks=tasks), None
            known = [task.come for task in at.tasks if task is not None and task.position >= 0]
            if known:  # one that is not there takes part in a later cycle
                oldest = self._off != "the read starts at the oldest position"
                begin = min(known) if oldest else max(known)
                yield "the outbox is read", at._replace(upto=at.commits, begin=begin), None
            return
        yield "the worker crashes", _idle(at)._replace(kept=(None, None)), None
        for number in (0, 1):
            if (task := at.tasks[number]) is not None:
                yield from self._apply(at, number, task)
        enough = any if self._off == "a token waits for every partition" else all
        if enough(part.position >= at.commits for part in at.parts):
            old = any(0 <= part.value < _need(number, at.commits) for number, part in enumerate(at.parts))
            yield "wait_for returns", at, TOKEN if old else None

    def _apply(self, at: World, number: int, task: Task) -> Iterator[Move[World]]:
        if self._scans(at, number, task) and task.scanned < 0:
            if number == 1 and at.slot.moving and at.slot.state_moved:
                return
            part = at.parts[number]
            here = number == 0 or not at.slot.value_moved
            if here and not self._refused(at, number, task):
                part = part._replace(value=-1, lease=0)
            scanned = task._replace(scanned=at.slot.moves)
            after = at._replace(parts=_set(at.parts, number, part), tasks=_task(at, number, scanned))
            yield f"{number} is scanned", after, None
            return
        done = _idle(at) if at.tasks[1 - number] is None else at._replace(tasks=_task(at, number, None))
        concerned = any(number in TOUCHES[one] for one in range(at.begin, at.upto))
        if task.position >= 0 and not concerned:
            skipped = self._remembered(done, number, task._replace(come=at.upto))
            yield f"{number} is not concerned", skipped, None
        written = self._written(at, number, task, at.upto)
        if written is None:
            if self._off == "a partition that begins again starts at its stored position":
                done = _kept_task(done, number, Task(FORGOTTEN, 0, at.upto))
            yield f"the script of {number} is refused", done, None
        else:
            tasks, upto = done.tasks, done.upto
            kept = self._remembered(done, number, Task(at.upto, task.run, at.upto)).kept
            yield f"{number} is applied", written._replace(tasks=tasks, upto=upto, kept=kept), None
            if self._off == "a position moves with the effects in its own partition" and number == 1:
                other = written.parts[0]._replace(position=at.upto)
                ahead = written._replace(parts=_set(written.parts, 0, other), tasks=tasks, upto=upto)
                yield "and the position of 0 with it", ahead, None

    def _remembered(self, at: World, number: int, task: Task) -> World:
        """Keep what the worker knows of a partition; with migrations each cycle reads the state anew."""
        return at if self._fault == "migration" else _kept_task(at, number, task)

    def _scans(self, at: World, number: int, task: Task) -> bool:
        if task.position < 0:
            return self._off != "a partition without a position drops its keys"
        return number == 1 and at.begin < len(TOUCHES) <= at.upto

    def _written(self, at: World, number: int, task: Task, upto: int) -> World | None:
        """One partition's last script; None if it is refused."""
        part, slot = at.parts[number], at.slot
        if self._refused(at, number, task) or (number == 1 and slot.moving and slot.state_moved):
            return None
        unlinks = task.position >= 0 and at.begin < 1 <= upto  # the first transaction names the key
        if unlinks and not self._whole(at, number):
            return None
        if self._scans(at, number, task) and number == 1 and not self._stayed(slot, task):
            return None
        if unlinks:
            part = part._replace(value=-1, lease=0)
            if number == 1 and slot.value_moved:
                part = at.parts[number]
        return self._kept(at, number, part._replace(position=upto))

    def _stayed(self, slot: Slot, task: Task) -> bool:
        if self._off == "a scan counts only if its slot stayed where it was":
            return True
        return not slot.moving and slot.moves == task.scanned

    def _refused(self, at: World, number: int, task: Task) -> bool:
        part = at.parts[number]
        other_run = at.live[number] != task.run or part.run != task.run
        return other_run or part.position != task.position

    def _kept(self, at: World, number: int, part: Part) -> World:
        before = at.before
        if number == 0 and self._fault == "failover" and not at.fault:
            before = at.parts[0]
        return at._replace(parts=_set(at.parts, number, part), before=before)

    # --- promises -------------------------------------------------------------------------------

    def broken(self, at: World) -> str | None:
        """Every partition keeps its own promise."""
        resting = self.at_rest(at)
        for number, part in enumerate(at.parts):
            if 0 <= part.value < _need(number, part.position):
                return TIER
            if resting and 0 <= part.value < _need(number, at.commits):
                return SETTLED
            if resting and part.unheard:
                return NEAR
        return None

    def at_rest(self, at: World) -> bool:
        """Everything is applied in its epoch, no slot moves and no read is in flight."""
        applied = all(part.position == at.commits for part in at.parts)
        live = all(part.run == run for part, run in zip(at.parts, at.live, strict=True))
        return (
            applied
            and live
            and not at.slot.moving
            and at.upto < 0
            and not any(read.lease for read in at.reads)
        )


def _need(number: int, position: int) -> int:
    """The transactions that a value must contain: up to the newest one that concerns the partition."""
    return max((one + 1 for one in range(max(position, 0)) if number in TOUCHES[one]), default=0)


def _idle(at: World) -> World:
    return at._replace(tasks=(None, None), upto=-1, begin=0)


def _set(parts: tuple[Part, Part], number: int, part: Part) -> tuple[Part, Part]:
    return (part, parts[1]) if number == 0 else (parts[0], part)


def _task(at: World, number: int, task: Task | None) -> tuple[Task | None, Task | None]:
    return (task, at.tasks[1]) if number == 0 else (at.tasks[0], task)


def _kept_task(at: World, number: int, task: Task | None) -> World:
    return at._replace(kept=(task, at.kept[1]) if number == 0 else (at.kept[0], task))


def _reading(at: World, number: int, read: Read) -> World:
    return at._replace(reads=(read, at.reads[1]) if number == 0 else (at.reads[0], read))

"""Named points at which a test makes worker or agent stop, fail, wait or die; nothing in normal operation.

A point costs one look at a module global while none is armed::

    if failpoints.on:
        await failpoints.reach("applier.before_last_script")

A test arms points of its own process with `armed`; a process is started with points armed by
``UNSTALE_FAILPOINTS="applier.before_last_script=kill,reader.before_fill=sleep:0.5@3"``: ``kill`` (SIGKILL to
itself), ``raise`` or ``sleep:SECONDS``, from the third time on with ``@3``.
"""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from unstale.errors import SettingError, Unavailable

ENVIRONMENT: Final = "UNSTALE_FAILPOINTS"

POINTS: Final[Mapping[str, str]] = {
    # Worker: place, and what has and has not happened there.
    "source.before_read": "OutboxSource.read, SupabaseSource.read: nothing was asked yet",
    "source.after_read": "OutboxSource.read, SupabaseSource.read: the page is here, nothing was applied",
    "pipeline.before_apply": "Pipeline._apply: planned, queries run; Redis knows nothing of it",
    "pipeline.after_apply": "Pipeline._apply: the position is stored, nobody counted it",
    "pipeline.before_watermark": "Pipeline._say: everything is applied, agents do not know yet",
    "applier.after_drop": "Applier.apply: a pattern's keys are gone, nothing is logged",
    "applier.before_script": "Applier.apply: before each pipeline of scripts that do not store the position",
    "applier.before_last_script": "Applier.apply: all but the position's script were acknowledged",
    "applier.after_last_script": "Applier.apply: the position is stored",
    "applier.before_new_epoch": "Applier.new_epoch: another run was seen, the old epoch stands",
    "applier.after_snapshot": "Applier.recover: the snapshot is taken, the old keys stand",
    "applier.before_recover": "Applier.recover: the owned keys are gone, no position is stored",
    "leadership.before_renew": "Leadership.keep: before each renewal of the lease",
    "leadership.before_resign": "Leadership.resign: drained, the lease is still ours",
    "wakeups.asleep": "NotifyWakeUps.try_sleep: the lock that means sleep is held, nothing was read since",
    # Refreshes, in the leader and in refresh workers.
    "lines.before_batch": "dispatch.run_batches: keys are claimed and left their line; no lease is taken",
    "batches.after_take": "Batches.refresh: the leases are held, the database was not read",
    "batches.before_fill": "Batches.refresh: loaded, not stored",
    "batches.after_fill": "Batches.refresh: stored, nobody counted it",
    "batches.before_failed": "Batches.refresh: a key's load failed; its lease stands, nobody counted it",
    "batches.before_postpone": "Batches.refresh: the database did not answer; the leases stand",
    "lines.before_jobs": "dispatch.run_jobs: keys are claimed and left their line; no job is added",
    "lines.before_postpone": "dispatch.run_jobs: jobs are added; keys whose job runs are not due again",
    "spread.after_add": "docket_queue.add: jobs are added; which ones were known is not asked",
    "jobs.before_take": "Jobs.refresh: the job runs, no lease is taken",
    "jobs.after_take": "Jobs.refresh: the lease is held, the loader was not called",
    "jobs.before_fill": "Jobs._fill: the loader has answered, nothing is stored",
    "jobs.after_fill": "Jobs._fill: stored, nobody counted it",
    "jobs.before_failed": "Jobs._failed: the loader failed; its lease stands, the failure is not counted",
    "jobs.before_postpone": "Jobs._load: a model refused for its rate, its loader pauses; the lease stands",
    # Agent.
    "reader.before_claim": "Reader._value_or_claim: the mark is open, Redis was not asked",
    "reader.before_load": "Reader._load_and_fill: the lease is held, the loader did not begin",
    "reader.before_fill": "Reader._load_and_fill: loaded, not stored",
    "reader.after_fill": "Reader._load_and_fill: stored in Redis, not in the near cache",
    "subscriber.before_replay": "Subscriber._replay: the log was not read",
    "subscriber.after_replay": "Subscriber._replay: the log was read, nothing was dropped",
    "subscriber.before_message": "Subscriber._hear: a message is here, unread",
    "writer.before_invalidate": "Writer._invalidate: Redis was not asked",
    "writer.after_invalidate": "Writer._invalidate: gone in Redis, still in this process",
}
"""Every point by name: the function that holds it, and what is true there."""

on = False
"""Whether any point is armed: all that a point looks at otherwise."""

_armed: dict[str, "Point"] = {}


class Failpoint(Unavailable):
    """A test made this fail; it is handled as a server that does not answer."""


class Point:
    """One armed point.

    Attributes:
        name: Its name in `POINTS`.
        hits: How often it was reached.
        reached: Set the first time.
    """

    __slots__ = ("_error", "_first", "_hold", "_kill", "_run", "_seconds", "hits", "name", "reached")

    def __init__(
        self,
        name: str,
        *,
        error: BaseException | None = None,
        hold: bool = False,
        run: Callable[[], object] | None = None,
        seconds: float = 0.0,
        kill: bool = False,
        first: int = 1,
    ) -> None:
        if name not in POINTS:
            raise SettingError(f"there is no failpoint {name!r}; take one of {', '.join(POINTS)}")
        self.name = name
        self.hits = 0
        self.reached = asyncio.Event()
        self._error, self._run, self._seconds, self._kill, self._first = error, run, seconds, kill, first
        self._hold = asyncio.Event()
        if not hold:
            self._hold.set()

    async def wait(self, *, seconds: float = 10.0) -> None:
        """Wait until somebody came here; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await self.reached.wait()

    def release(self) -> None:
        """Let whoever is held go on, and everybody after."""
        self._hold.set()

    def hold(self) -> None:
        """Hold whoever comes from now on."""
        self._hold.clear()

    async def act(self) -> None:
        """What happens to whoever reaches the point."""
        self.hits += 1
        if self.hits < self._first:
            return
        self.reached.set()
        if self._kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._run is not None:
            result = self._run()
            if asyncio.iscoroutine(result):
                await result
        if self._seconds:
            await asyncio.sleep(self._seconds)
        await self._hold.wait()
        if self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        return f"<Point {self.name} hits={self.hits}>"


async def reach(name: str) -> None:
    """Called at the point; returns at once unless it is armed."""
    point = _armed.get(name)
    if point is not None:
        await point.act()


@contextmanager
def armed(
    name: str,
    *,
    error: BaseException | None = None,
    hold: bool = False,
    run: Callable[[], object] | None = None,
    first: int = 1,
) -> Iterator[Point]:
    """Arm a point of this process: raise ``error``, ``hold`` until released, ``run`` it, or count.

    ``first`` is the hit from which on it acts. Disarmed and released at the end.
    """
    point = Point(name, error=error, hold=hold, run=run, first=first)
    _arm(point)
    try:
        yield point
    finally:
        point.release()
        _disarm(name)


def arm_from(text: str) -> None:
    """Arm what ``UNSTALE_FAILPOINTS`` says, for the life of the process; raises `SettingError`."""
    for part in filter(None, re.split(r"[,\s]+", text)):
        found = re.fullmatch(
            r"(?P<name>[a-z_.]+)=(?P<what>kill|raise|sleep:(?P<s>[0-9.]+))(?:@(?P<first>[0-9]+))?", part
        )
        if found is None:
            raise SettingError(f"{ENVIRONMENT}: {part!r} is not NAME=kill, NAME=raise or NAME=sleep:SECONDS")
        what, name = found["what"], found["name"]
        _arm(
            Point(
                name,
                kill=what == "kill",
                error=Failpoint(f"the failpoint {name} is armed") if what == "raise" else None,
                seconds=float(found["s"] or 0),
                first=int(found["first"] or 1),
            )
        )


def _arm(point: Point) -> None:
    global on
    if point.name in _armed:
        raise ValueError(f"the failpoint {point.name} is armed already")
    _armed[point.name] = point
    on = True


def _disarm(name: str) -> None:
    global on
    del _armed[name]
    on = bool(_armed)


arm_from(os.environ.get(ENVIRONMENT, ""))

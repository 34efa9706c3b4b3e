"""Named points between two steps, at which a test makes a worker or an agent stop, fail or wait.

Without a test they do nothing. An unarmed point costs one look at a module global::

    if failpoints.on:
        await failpoints.reach("applier.before_last_script")

Only code can arm a point, with `armed`: neither an import nor the environment can. A point is for a moment
between two steps of one function; a moment before or after a method needs none, as a test can replace the
method (``tests/workers/seams.py``).
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from unstale.errors import SettingError, Unavailable

POINTS: Final[Mapping[str, str]] = {
    # Worker.
    "applier.after_drop": "Applier.apply: a pattern's keys are gone, nothing is logged",
    "applier.before_script": "Applier.apply: before each pipeline of scripts that do not store the position",
    "applier.before_last_script": "Applier.apply: all but the script with the position are acknowledged",
    "applier.before_recover": "Applier.recover: the owned keys are gone, no position is stored",
    "adoption.begun": "Adoption.adopt: no rules are in force, and nothing is dropped yet",
    "adoption.before_shorten": "Adoption.shorten: a chunk of keys is about to get a shorter TTL",
    "adoption.before_published": "Adoption.adopt: all is dropped, and agents still read the rules before",
    "leadership.before_renew": "Leadership.keep: before each renewal of the lease",
    # Refreshes, in the leader and in refresh workers.
    "coordinator.before_ready": "Refresher._hand_over: claimed; keys of Python loaders are not ready",
    "sql_worker.before_batch": "sql_worker.run_batches: keys are claimed, not pending any more; no lease",
    "sql_refresher.after_acquire": "SqlRefresher._load: the leases are held, the database was not read",
    "sql_refresher.before_fill": "SqlRefresher._refresh: loaded, not stored",
    "sql_refresher.after_fill": "SqlRefresher._refresh: stored and counted",
    "sql_refresher.before_failed": "SqlRefresher._refresh: a key's load failed, its lease stands",
    "sql_refresher.before_postpone": "SqlRefresher._load: the database did not answer; the leases stand",
    "loader_worker.after_reserve": "LoaderWorker._reserve: slots are taken, no refresh was started",
    "python_refresher.before_acquire": "PythonRefresher.refresh: the key is reserved, no lease is acquired",
    "python_refresher.after_acquire": "PythonRefresher.refresh: the lease is held, the loader was not called",
    "python_refresher.after_spend": "PythonRefresher._call: the call is counted, it was not made",
    "python_refresher.before_fill": "PythonRefresher._fill: the loader has returned, nothing is stored",
    "python_refresher.after_fill": "PythonRefresher._fill: stored and counted; its slot is taken",
    "python_refresher.before_failed": "PythonRefresher._failed: the loader failed, its lease stands",
    "python_refresher.before_postpone": "PythonRefresher._paused: the loader is paused, the lease stands",
    # Agent.
    "reader.before_fill": "ReadPath._load_and_fill: loaded, not stored",
    "reader.after_fill": "ReadPath._load_and_fill: stored in Redis, not in the near cache",
}
"""Every failpoint by name: the function that contains it, and the state at that moment."""

on = False
"""True while any point is armed; all that an unarmed point looks at."""

_armed: dict[str, "Point"] = {}


class Failpoint(Unavailable):
    """An error raised by a test; it is handled like a server that does not answer."""


class Point:
    """One armed point.

    Args:
        name: The name; `armed` requires one of `POINTS`.
        error: Raised at the point.
        hold: Stop everybody at the point until `release`.
        run: Called at the point, and awaited if it returns a coroutine.
        first: The hit from which the point acts; earlier ones are only counted.

    Attributes:
        hits: Number of times the point was reached.
        reached: Set when it acted for the first time.
    """

    __slots__ = ("_error", "_first", "_hold", "_run", "hits", "name", "reached")

    def __init__(
        self,
        name: str,
        *,
        error: BaseException | None = None,
        hold: bool = False,
        run: Callable[[], object] | None = None,
        first: int = 1,
    ) -> None:
        self.name = name
        self.hits = 0
        self.reached = asyncio.Event()
        self._error, self._run, self._first = error, run, first
        self._hold = asyncio.Event()
        if not hold:
            self._hold.set()

    async def wait(self, *, seconds: float = 10.0) -> None:
        """Wait until the point was reached; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await self.reached.wait()

    def release(self) -> None:
        """Let everybody pass, those that are held and those that come later."""
        self._hold.set()

    def hold(self) -> None:
        """Hold everybody that comes from now on."""
        self._hold.clear()

    async def act(self) -> None:
        """Do to the caller what the point was armed for."""
        self.hits += 1
        if self.hits < self._first:
            return
        self.reached.set()
        if self._run is not None:
            result = self._run()
            if asyncio.iscoroutine(result):
                await result
        await self._hold.wait()
        if self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        return f"<Point {self.name} hits={self.hits}>"


async def reach(name: str) -> None:
    """Act as the point is armed; return at once if it is not."""
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
    """Arm a point of this process, see `Point`; disarm and release it at the end.

    Raises `SettingError` for a name that is not in `POINTS`.
    """
    global on
    if name not in POINTS:
        raise SettingError(f"there is no failpoint {name!r}; take one of {', '.join(POINTS)}")
    if name in _armed:
        raise ValueError(f"the failpoint {name} is armed already")
    point = _armed[name] = Point(name, error=error, hold=hold, run=run, first=first)
    on = True
    try:
        yield point
    finally:
        point.release()
        del _armed[name]
        on = bool(_armed)

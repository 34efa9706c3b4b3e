"""The loads that wait for the code that runs now, to find one that waits for itself."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, TypeVar

from unstale.errors import LoadCycle
from unstale.reading.awaiting import awaits
from unstale.runtime import clock

T = TypeVar("T")

LOOK_EVERY: Final = 0.1
"""Seconds after which it is looked again if a loader waits for a task that waits for the loader."""


class Waiting:
    """One load, as far as waiting for other loads goes.

    Attributes:
        key: The key that is loaded.
        awaited: The loads that its loader waits for now.
        outer: The loads whose loaders have asked for it.
    """

    __slots__ = ("awaited", "key", "outer")

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the value."""
        return ()

    def __init__(self, key: str) -> None:
        self.key = key
        self.awaited: list[Wait] = []
        self.outer: Chain = ()


Chain = tuple[Waiting, ...]
Task: TypeAlias = "asyncio.Task[Any] | None"


class Wait:
    """One wait for a load.

    Attributes:
        load: The load.
    """

    __slots__ = ("_loader", "_reader", "load")

    def __init__(self, load: Waiting, loader: Task = None, reader: Task = None) -> None:
        self.load = load
        self._loader, self._reader = loader, reader

    @property
    def certain(self) -> bool:
        """True if the loader itself waits, and not a task that it has started and does not wait for."""
        loader, reader = self._loader, self._reader
        return loader is None or reader is None or loader is reader or awaits(loader, reader)


_chain: Final[ContextVar[tuple[Chain, Task]]] = ContextVar("unstale_load_chain", default=((), None))
"""The loads whose loader has called the code that runs now, and the task of the loader; tasks that a loader
starts inherit it."""


entered: Callable[[], object] | None = None
"""Called before a load, while the statements of loaders are recorded."""


def chain() -> Chain:
    """Return the loads that wait for the code that runs now."""
    return _chain.get()[0]


def enter(loads: Chain) -> None:
    """Let these loads wait for the code of the current task."""
    if entered is not None and loads:
        entered()
    _chain.set((loads, asyncio.current_task()))


def inside(loads: Chain, function: Callable[[], T]) -> T:
    """Call ``function`` while these loads wait for it, in another thread than that of the loads' tasks."""
    token = _chain.set((loads, None))
    try:
        return function()
    finally:
        _chain.reset(token)


async def wait_for(
    load: Waiting, waiters: Chain, answer: "asyncio.Future[Any]", seconds: float | None = None
) -> None:
    """Let the current task wait for ``load``, at most ``seconds``; its answer may be an error.

    Raises `LoadCycle` if the load waits for one of ``waiters``.

    A task in the background of a loader may wait for that loader's result, as nothing waits for the task. If
    the loader begins to wait for it, that is noticed `LOOK_EVERY` seconds later.
    """
    waits = [Wait(load, _chain.get()[1], asyncio.current_task()) for _ in waiters]
    doubtful = _check(load, waiters, waits)
    until = None if seconds is None else clock.now() + seconds
    load.outer += waiters
    for waiter, wait in zip(waiters, waits, strict=True):
        waiter.awaited.append(wait)
    try:
        while not answer.done():
            left = None if until is None else until - clock.now()
            if left is not None and left <= 0:
                return
            pause = min(left or LOOK_EVERY, LOOK_EVERY) if doubtful else left
            await asyncio.wait([answer], timeout=pause)
            doubtful = doubtful and _check(load, waiters, waits)
    finally:
        for waiter, wait in zip(waiters, waits, strict=True):
            waiter.awaited.remove(wait)


def _check(load: Waiting, waiters: Chain, waits: list[Wait]) -> bool:
    """Raise `LoadCycle` if ``load`` waits for one of ``waiters``; return True if it possibly does."""
    possible = False
    for waiter, wait in zip(waiters, waits, strict=True):
        if _path(load, waiter, certain=False):
            possible = True
            path = _path(load, waiter, certain=True)
            if path and wait.certain:
                raise LoadCycle([waiter.key, *(each.key for each in path)])
    return possible


def _path(start: Waiting, end: Waiting, *, certain: bool) -> list[Waiting]:
    """Return the loads from ``start`` to ``end``, each of which waits for the next; empty if none do."""
    came_from: dict[Waiting, Waiting | None] = {start: None}
    open_ends = [start]
    while open_ends:
        load = open_ends.pop()
        if load is end:
            path, step = [load], came_from[load]
            while step is not None:
                path.append(step)
                step = came_from[step]
            return path[::-1]
        for each in load.awaited:
            if each.load not in came_from and (not certain or each.certain):
                came_from[each.load] = load
                open_ends.append(each.load)
    return []

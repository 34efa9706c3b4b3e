"""The loads that wait for the code that runs now, to find one that waits for itself. Pure: no I/O."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from unstale.errors import LoadCycle


class Waiting:
    """One load, as far as waiting for other loads goes.

    Attributes:
        key: The key that is loaded.
        awaited: The loads that its loader waits for now.
        outer: The loads whose loaders have asked for it.
    """

    __slots__ = ("awaited", "key", "outer")

    def __init__(self, key: str) -> None:
        self.key = key
        self.awaited: list[Waiting] = []
        self.outer: Chain = ()


Chain = tuple[Waiting, ...]

_chain: Final[ContextVar[Chain]] = ContextVar("unstale_load_chain", default=())
"""The loads whose loader has called the code that runs now; tasks that a loader starts inherit it."""


def chain() -> Chain:
    """Return the loads that wait for the code that runs now."""
    return _chain.get()


def enter(loads: Chain) -> None:
    """Let these loads wait for the code of the current task."""
    _chain.set(loads)


@contextmanager
def waiting_for(load: Waiting, waiters: Chain) -> Iterator[None]:
    """Record that ``waiters`` wait for ``load``; raises `LoadCycle` if it waits for one of them."""
    for waiter in waiters:
        path = _path(load, waiter)
        if path:
            raise LoadCycle([waiter.key, *(each.key for each in path)])
    load.outer += waiters
    for waiter in waiters:
        waiter.awaited.append(load)
    try:
        yield
    finally:
        for waiter in waiters:
            waiter.awaited.remove(load)


def _path(start: Waiting, end: Waiting) -> list[Waiting]:
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
            if each not in came_from:
                came_from[each] = load
                open_ends.append(each)
    return []

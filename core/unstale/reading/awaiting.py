"""Find out if one task waits for another, through whatever asyncio puts between them. Pure: no I/O.

A task that a loader starts either belongs to it, because the loader waits for the task, or goes on in the
background. Only asyncio knows which: a future holds the callbacks of those who wait for it.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

MOST_LOOKED_AT: Final = 10_000
"""Futures that are looked at. Beyond that a task counts as awaited."""


def awaits(outer: "asyncio.Future[Any]", inner: "asyncio.Future[Any]") -> bool:
    """Return True if ``outer`` waits for ``inner`` now, directly or through other tasks."""
    seen, open_ends = {inner}, [inner]
    while open_ends:
        future = open_ends.pop()
        if future is outer or len(seen) > MOST_LOOKED_AT:
            return True
        for waiting in _waiting_for(future):
            if waiting not in seen:
                seen.add(waiting)
                open_ends.append(waiting)
    return False


def _waiting_for(future: "asyncio.Future[Any]") -> "Iterator[asyncio.Future[Any]]":
    """Yield the futures and tasks that wait for ``future``: an ``await``, gather, wait, a task group, ..."""
    for callback, _ in getattr(future, "_callbacks", None) or ():
        if isinstance(callback, partial):  # wait_for
            yield from _futures(callback.func, *callback.args)
        else:
            yield from _futures(callback)


def _futures(*parts: Any) -> "Iterator[asyncio.Future[Any]]":
    """Yield the futures that a callback would wake."""
    for part in parts:
        held = [getattr(part, "__self__", None)]
        for cell in getattr(part, "__closure__", None) or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                continue
        for each in (part, *held):
            if isinstance(each, asyncio.Future):
                yield each
                continue
            for queue in (each, getattr(each, "_done", None)):  # as_completed
                yield from getattr(queue, "_getters", ())
            parent = getattr(each, "_parent_task", None)  # a task group of asyncio, or of anyio
            parent = parent or getattr(getattr(each, "cancel_scope", None), "_host_task", None)
            if parent is not None:
                yield parent

"""One resource per event loop: opened once, closed with its loop, forgotten after a fork."""

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Generic, TypeVar

from unstale.runtime.fork import forget_after_fork

logger = logging.getLogger("unstale")

T = TypeVar("T")

LOOK_SECONDS: Final = 0.5
"""Seconds between two checks that another thread's loop still runs; a stopped loop never answers."""


class _Place(Generic[T]):
    """The resource of one loop, and the task that keeps it open."""

    __slots__ = ("keeper", "loop", "ready", "stop", "value")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[T] = self.loop.create_future()
        self.stop = asyncio.Event()
        self.value: T | None = None
        self.keeper: asyncio.Task[None]


class PerLoop(Generic[T]):
    """Opens one resource in each event loop that asks.

    A task of the loop keeps the resource open. ``asyncio.run`` cancels that task at its end, which closes the
    resource even if `close` was never called. Each thread's loop has a resource of its own.

    Example:
        >>> caches = PerLoop(Cache.from_env, name="redis_cache")
        >>> cache = await caches.get()
    """

    def __init__(self, opens: Callable[[], AbstractAsyncContextManager[T]], *, name: str) -> None:
        self._opens = opens
        self._name = name
        self._places: dict[asyncio.AbstractEventLoop, _Place[T]] = {}
        self._kept: set[_Place[T]] = set()  # those that are closing, too
        forget_after_fork(self)

    async def get(self) -> T:
        """Return the running loop's resource, opened once for all callers. Raises what opening raises."""
        place = self._places.get(asyncio.get_running_loop())
        if place is not None and place.value is not None:
            return place.value
        if place is None:
            place = self._new_place()
        return await asyncio.shield(place.ready)

    def peek(self) -> T | None:
        """Return the running loop's resource if it is open."""
        place = self._places.get(asyncio.get_running_loop())
        return None if place is None else place.value

    def opened(self) -> list[T]:
        """Return the open resources of all loops that are not closed."""
        return [
            place.value
            for loop, place in tuple(self._places.items())
            if place.value is not None and not loop.is_closed()
        ]

    async def close(self) -> None:
        """Close the resource of every running loop; a later `get` opens again. Calls may overlap."""
        here = asyncio.get_running_loop()
        for place in tuple(self._kept):
            if place.loop is here:
                await _closed(place)
            elif place.loop.is_running():
                await _closed_elsewhere(place)

    def after_fork(self) -> object:
        """Forget every resource; see `unstale.runtime.fork.Forgets`."""
        inherited = self._places, self._kept
        self._places, self._kept = {}, set()
        return inherited

    def _new_place(self) -> _Place[T]:
        for old in tuple(self._kept):
            if old.loop.is_closed():  # not ended by asyncio.run: its resource cannot be closed any more
                self._kept.discard(old)
                self._places.pop(old.loop, None)
        place = _Place[T]()
        self._places[place.loop] = place
        self._kept.add(place)
        # An empty context: the first caller's request must not live as long as the resource.
        place.keeper = contextvars.Context().run(
            asyncio.create_task, self._keep(place), name=f"unstale-{self._name}"
        )
        return place

    async def _keep(self, place: _Place[T]) -> None:
        try:
            async with self._opens() as value:
                place.value = value
                if not place.ready.done():
                    place.ready.set_result(value)
                await place.stop.wait()
                self._leave(place)
        except BaseException as error:
            if not place.ready.done():
                place.ready.set_exception(_told(error))
                place.ready.exception()  # retrieved, in case no caller waits any more
                if isinstance(error, Exception):
                    return
            if isinstance(error, Exception):
                logger.exception("%s was not closed cleanly", self._name)
            else:
                raise
        finally:
            self._leave(place)
            self._kept.discard(place)

    def _leave(self, place: _Place[T]) -> None:
        """Let the next `get` open a new resource."""
        place.value = None
        if self._places.get(place.loop) is place:
            del self._places[place.loop]

    def __repr__(self) -> str:
        return f"<PerLoop {self._name}, open in {len(self.opened())} loops>"


async def _closed(place: _Place[T]) -> None:
    place.stop.set()
    await asyncio.wait([place.keeper])


async def _closed_elsewhere(place: _Place[T]) -> None:
    """Close the resource of another thread's loop. If that loop ends meanwhile, ``asyncio.run`` closes it."""
    work = _closed(place)
    try:
        closing = asyncio.run_coroutine_threadsafe(work, place.loop)
    except RuntimeError:
        work.close()
        return
    ended = asyncio.wrap_future(closing)
    while not ended.done() and place.loop.is_running():
        await asyncio.wait([ended], timeout=LOOK_SECONDS)


def _told(error: BaseException) -> Exception:
    """Return the error for waiting callers. The keeper's cancellation must not look like their own."""
    return (
        error if isinstance(error, Exception) else RuntimeError("the event loop ended before this was open")
    )

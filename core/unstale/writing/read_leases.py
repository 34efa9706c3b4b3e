"""Remembers which task missed which key, so that its ``set`` uses the lease of that miss. Pure: no I/O."""

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from unstale.near_cache.in_flight import InFlightRead, InFlightReads

MOST_MISSES: Final = 4_096
"""Most misses remembered. The oldest are forgotten first; a `set` after a forgotten miss stores nothing."""

CALLER: Final[ContextVar[object]] = ContextVar("unstale_caller")
"""The caller that a miss belongs to, if it is not the task: a thread whose calls run in a task each."""

Place: TypeAlias = "tuple[weakref.ref[Any], str]"
"""Task and key. References instead of ids: ids are reused, but a dead reference never equals a live one."""


class Miss:
    """A ``get`` that found nothing.

    Attributes:
        lease: The soft lease that it acquired. None if another process held a lease, or if Redis could not
            be used.
        read: The read in flight; invalid once the key is invalidated after the ``get``.
        expires: Moment at which the lease expires.
    """

    __slots__ = ("expires", "lease", "read")

    def __init__(self, lease: bytes | None, read: InFlightRead, expires: float) -> None:
        self.lease = lease
        self.read = read
        self.expires = expires


class ReadLeases:
    """Misses by task and key.

    A miss counts only for its own task, because a value that another task has loaded may be older than this
    lease. (On Python 3.11 ``asyncio.wait_for(cache.get(…))`` runs the get in a separate task;
    ``asyncio.timeout`` does not.)
    """

    def __init__(self, reads: InFlightReads, clock: Callable[[], float]) -> None:
        self._reads = reads
        self._clock = clock
        self._known: OrderedDict[Place, Miss] = OrderedDict()

    def remember(self, key: str, lease: bytes | None, read: InFlightRead, *, seconds: float) -> None:
        """Remember that the current task missed ``key``; takes over ``read``."""
        caller = CALLER.get(None) or asyncio.current_task()
        if caller is None:
            self._reads.close(read)
            return
        now = self._clock()
        place = (weakref.ref(caller), key)
        self._forget(place)
        self._known[place] = Miss(lease, read, now + seconds)
        while self._known:
            oldest = next(iter(self._known))
            if len(self._known) <= MOST_MISSES and self._known[oldest].expires > now:
                break
            self._forget(oldest)

    def recall(self, key: str) -> Miss | None:
        """Remove and return the current task's miss of ``key``; close its read."""
        caller = CALLER.get(None) or asyncio.current_task()
        if caller is None:
            return None
        place = (weakref.ref(caller), key)
        miss = self._known.get(place)
        self._forget(place)
        return miss if miss is not None and self._clock() < miss.expires else None

    def clear(self) -> None:
        """Forget every miss."""
        for place in tuple(self._known):
            self._forget(place)

    def _forget(self, place: Place) -> None:
        miss = self._known.pop(place, None)
        if miss is not None:
            self._reads.close(miss.read)

    def __len__(self) -> int:
        return len(self._known)

"""Remembers which task missed which key, so that its ``set`` fills under the lease of that miss. No I/O."""

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from unstale.near_cache.in_flight import Mark, Marks

MOST_MISSES: Final = 4_096
"""Misses remembered; the oldest go first, and the `set` that belonged to them stores nothing."""


Place: TypeAlias = "tuple[weakref.ref[asyncio.Task[Any]], str]"
"""Task and key. References, not ids: an id comes back, and a dead reference equals no living one."""


class Miss:
    """A ``get`` that found nothing.

    Attributes:
        lease: The soft lease it took, or None: another's stood there, or Redis could not be used.
        mark: Dirty once the key was invalidated after the ``get``.
        expires: When the lease is over.
    """

    __slots__ = ("expires", "lease", "mark")

    def __init__(self, lease: bytes | None, mark: Mark, expires: float) -> None:
        self.lease = lease
        self.mark = mark
        self.expires = expires


class Misses:
    """Misses by task and key.

    A miss belongs to the task it happened in: what another task has loaded may be older than this lease.
    (``asyncio.wait_for(cache.get(…))`` runs the get in a task of its own on Python 3.11; ``asyncio.timeout``
    does not.)
    """

    def __init__(self, marks: Marks, clock: Callable[[], float]) -> None:
        self._marks = marks
        self._clock = clock
        self._known: OrderedDict[Place, Miss] = OrderedDict()

    def remember(self, key: str, lease: bytes | None, mark: Mark, *, seconds: float) -> None:
        """The current task missed ``key``; takes over ``mark``."""
        task = asyncio.current_task()
        if task is None:
            self._marks.close(mark)
            return
        now = self._clock()
        place = (weakref.ref(task), key)
        self._forget(place)
        self._known[place] = Miss(lease, mark, now + seconds)
        while self._known:
            oldest = next(iter(self._known))
            if len(self._known) <= MOST_MISSES and self._known[oldest].expires > now:
                break
            self._forget(oldest)

    def recall(self, key: str) -> Miss | None:
        """The current task's miss of ``key``, once; its mark is closed."""
        task = asyncio.current_task()
        if task is None:
            return None
        place = (weakref.ref(task), key)
        miss = self._known.get(place)
        self._forget(place)
        return miss if miss is not None and self._clock() < miss.expires else None

    def clear(self) -> None:
        """Forget them all."""
        for place in tuple(self._known):
            self._forget(place)

    def _forget(self, place: Place) -> None:
        miss = self._known.pop(place, None)
        if miss is not None:
            self._marks.close(miss.mark)

    def __len__(self) -> int:
        return len(self._known)

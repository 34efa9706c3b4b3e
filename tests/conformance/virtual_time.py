"""An event loop whose time passes only when nothing else is left to do."""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

SETTLED = 1e-7
"""Seconds that pass while everything that can be done now is done."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop for tasks that wait for each other and for timers, and for nothing outside the process.

    Waiting for a timer takes no real time: the clock jumps to the moment of the next timer.
    """

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now


async def settle() -> None:
    """Let every task run until it waits for a later moment."""
    await asyncio.sleep(SETTLED)


class _Jumping(selectors.BaseSelector):
    """Lets the loop's time jump instead of waiting."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("every task waits, and none for a timer")
            self._loop.now += max(0.0, timeout)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

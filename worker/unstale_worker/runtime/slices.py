"""Lets other tasks run while a long computation goes on: the leader's lease is renewed in one of them."""

import asyncio
import time
from typing import Final

SLICE_SECONDS: Final = 0.02
"""Seconds for which the event loop belongs to one computation: far below the 0.5 s between two renewals."""


class Slices:
    """The time that one computation takes from the event loop at once.

    Example:
        >>> slices = Slices()
        >>> for chunk in chunks:
        ...     work(chunk)
        ...     await slices.pause()
    """

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE_SECONDS

    async def pause(self) -> None:
        """Let other tasks run if this slice is over."""
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + SLICE_SECONDS

    def __repr__(self) -> str:
        return f"<Slices of {SLICE_SECONDS} s>"

"""Claimed keys of one SQL refresh that wait for a batch, in order and each once."""

import asyncio
from collections.abc import Iterable
from itertools import islice


class PendingKeys:
    """A queue in memory; keys that are lost with it are due again in Redis by themselves.

    Example:
        >>> pending = PendingKeys()
        >>> pending.put(["a", "b", "a"])
        >>> await pending.take(10)
        ['a', 'b']
    """

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, keys: Iterable[str]) -> None:
        """Add keys at the end; those that are there already keep their place."""
        for key in keys:
            self._keys[key] = None
        if self._keys:
            self._filled.set()

    async def take(self, most: int) -> list[str]:
        """Remove and return the next keys, at most ``most``; waits until there is one."""
        await self._filled.wait()
        taken = list(islice(self._keys, most))
        for key in taken:
            del self._keys[key]
        if not self._keys:
            self._filled.clear()
        return taken

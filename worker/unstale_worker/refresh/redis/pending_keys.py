"""Keys of one refresh that were claimed and wait for their turn, in order and each once."""

import asyncio
from collections.abc import Iterable
from itertools import islice


class Waiting:
    """A queue in memory; what is lost with it is due again in Redis by itself.

    Example:
        >>> waiting = Waiting()
        >>> waiting.put(["a", "b", "a"])
        >>> await waiting.take(10)
        ['a', 'b']
    """

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def put(self, keys: Iterable[str]) -> None:
        """Add keys at the end; those that wait already keep their place."""
        for key in keys:
            self._keys[key] = None
        if self._keys:
            self._filled.set()

    async def take(self, most: int) -> list[str]:
        """The next keys, at least one, at most ``most``; waits until there is one."""
        await self.filled()
        taken = list(islice(self._keys, most))
        for key in taken:
            del self._keys[key]
        if not self._keys:
            self._filled.clear()
        return taken

    async def filled(self) -> None:
        """Wait until there is a key."""
        await self._filled.wait()

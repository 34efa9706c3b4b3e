"""Pauses between attempts: doubling up to a bound, with jitter."""

import random


class Backoff:
    """Counts failures in a row and returns the pause after each.

    Example:
        >>> backoff = Backoff(first=0.1, most=5.0)
        >>> 0.05 <= backoff.failed() <= 0.1
        True
    """

    __slots__ = ("_first", "_most", "_next")

    def __init__(self, *, first: float = 0.05, most: float = 5.0) -> None:
        self._first, self._most, self._next = first, most, first

    def failed(self) -> float:
        """Return the seconds to wait: half to all of a bound that doubles, so that workers spread out."""
        bound, self._next = self._next, min(self._next * 2, self._most)
        return bound * random.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        """Start again at the first pause."""
        self._next = self._first

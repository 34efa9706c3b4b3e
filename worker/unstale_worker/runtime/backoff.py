"""Pauses between attempts that go on for ever: doubling, with jitter, bounded."""

import random


class Backoff:
    """Seconds to wait after each failure in a row.

    Example:
        >>> backoff = Backoff(first=0.1, most=5.0)
        >>> 0.05 <= backoff.failed() <= 0.1
        True
    """

    __slots__ = ("_first", "_most", "_next")

    def __init__(self, *, first: float = 0.05, most: float = 5.0) -> None:
        self._first, self._most, self._next = first, most, first

    def failed(self) -> float:
        """Seconds to wait now: between half and all of a bound that doubles, so that workers spread out."""
        bound, self._next = self._next, min(self._next * 2, self._most)
        return bound * random.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        """Begin again at the first pause."""
        self._next = self._first

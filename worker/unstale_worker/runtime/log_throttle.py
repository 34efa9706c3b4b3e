"""Keeps a log readable while something fails again and again: the same text once in a while only."""

import time


class Said:
    """Whether a text is worth a line.

    Args:
        every: Seconds after which the same text is worth another one.

    Example:
        >>> said = Said(every=30.0)
        >>> said.anew("Redis is away"), said.anew("Redis is away"), said.anew("Postgres is away")
        (True, False, True)
    """

    __slots__ = ("_every", "_text", "_until")

    def __init__(self, *, every: float) -> None:
        self._every, self._text, self._until = every, "", 0.0

    def anew(self, text: str) -> bool:
        """True when ``text`` is another than the last one, or that was long ago; it then counts as said."""
        now = time.monotonic()
        if text == self._text and now < self._until:
            return False
        self._text, self._until = text, now + self._every
        return True

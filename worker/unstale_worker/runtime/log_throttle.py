"""Rate limit for log messages that repeat."""

import time


class LogThrottle:
    """Lets the same text through once per period, and every other text at once.

    Args:
        every: Seconds after which the same text may be logged again.

    Example:
        >>> throttle = LogThrottle(every=30.0)
        >>> throttle.allows("Redis is away"), throttle.allows("Redis is away"), throttle.allows("no disk")
        (True, False, True)
    """

    __slots__ = ("_every", "_text", "_until")

    def __init__(self, *, every: float) -> None:
        self._every, self._text, self._until = every, "", 0.0

    def allows(self, text: str) -> bool:
        """Return True if ``text`` is another than the last one or the period is over."""
        now = time.monotonic()
        if text == self._text and now < self._until:
            return False
        self._text, self._until = text, now + self._every
        return True

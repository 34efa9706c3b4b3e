"""Moments at which this process had heard of log entries, for `unstale why`. Pure: no I/O."""

from collections import deque
from typing import Final

from unstale.protocol.names import LogId

MOST_MARKS: Final = 40
RESOLUTION: Final = 0.5
"""Seconds in which all entries share one mark, so that a busy log still reaches back 20 s and a quiet one
further, at full precision."""


class Heard:
    """Marks: every log entry up to this id was processed by this moment.

    Example:
        >>> heard = Heard()
        >>> heard.note(LogId(7), 1.0)
        >>> list(heard.ages(now=3.5))
        [(7, 2500)]
    """

    __slots__ = ("_began", "_marks")

    def __init__(self) -> None:
        self._marks: deque[tuple[LogId, float]] = deque(maxlen=MOST_MARKS)
        self._began = 0.0

    def note(self, last: LogId, now: float) -> None:
        """Note that all up to ``last`` is processed at ``now``."""
        marks = self._marks
        if marks and now - self._began < RESOLUTION:
            marks[-1] = (last, now)
        else:
            marks.append((last, now))
            self._began = now

    def clear(self) -> None:
        """Forget every mark: ids begin again in a new epoch."""
        self._marks.clear()

    def ages(self, *, now: float) -> list[tuple[int, int]]:
        """Return id and milliseconds since, of each mark, oldest first."""
        return [(last, max(0, round((now - at) * 1000))) for last, at in self._marks]

    def __repr__(self) -> str:
        return f"<Heard {len(self._marks)} marks>"

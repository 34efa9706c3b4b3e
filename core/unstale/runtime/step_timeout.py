"""A time limit for each step of one task, at less than 1 µs a step; ``asyncio.timeout`` costs 8 µs."""

import asyncio
import math
from types import TracebackType


class StepTimeout:
    """Limits each step of the task that enters it; raises TimeoutError where the task waits.

    One timer serves many steps: when it fires while a later step runs, it is set again for the rest of that
    step's time.

    Example:
        >>> with StepTimeout(1.0) as limit:
        ...     while True:
        ...         limit.begin()
        ...         await send_and_receive()
        ...         limit.end()
        ...         await anything()  # not limited
    """

    __slots__ = ("_cancelling", "_loop", "_seconds", "_task", "_timer", "_until", "expired")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False

    def __enter__(self) -> "StepTimeout":
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a StepTimeout limits a task, and no task is running")
        self._task, self._loop, self._cancelling = task, task.get_loop(), task.cancelling()
        return self

    def begin(self) -> None:
        """Begin a step."""
        self._until = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._look)

    def end(self) -> None:
        """End the step: until the next one begins, the task may wait as long as it likes."""
        self._until = math.inf

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() >= self._until:
            self.expired = True
            self._task.cancel()
        elif self._until < math.inf:
            self._timer = self._loop.call_at(self._until, self._look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

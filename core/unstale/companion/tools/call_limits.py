"""Limits how often a model may call the tools of one user; no I/O."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from unstale.errors import ToolError

WINDOW_SECONDS: Final = 60.0
USERS_MOST: Final = 10_000
"""Users whose calls are counted in one process. Those without a call in the window are forgotten first."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``most`` calls in a minute of all tools that share ``name``."""

    name: str
    most: int


LOOKING: Final = Limit("looking", 60)
SCANNING: Final = Limit("invalidating", 5)
"""Each of these looks at every key of Redis."""
RENEWING: Final = Limit("renewing", 5)
"""Opens connections of every client again."""
CHANGING: Final = Limit("changing", 20)


class CallLimits:
    """The calls of the last minute, by user and limit.

    Example:
        >>> limits = CallLimits()
        >>> limits.take("user:42:", SCANNING, tool="invalidateCache")
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: dict[tuple[str, str], deque[float]] = {}

    def take(self, user: str, limit: Limit, *, tool: str) -> None:
        """Count one call; raises `ToolError` if it is one too many."""
        now = self._clock()
        calls = self._calls.pop((user, limit.name), None) or deque()
        self._calls[user, limit.name] = calls  # the last one used comes last
        while calls and calls[0] <= now - WINDOW_SECONDS:
            calls.popleft()
        if len(calls) >= limit.most:
            wait = max(1, round(calls[0] + WINDOW_SECONDS - now))
            raise ToolError(
                f"{tool} was not called: only {limit.most} such calls a minute are allowed. "
                f"Try again in {wait} seconds, or go on without it."
            )
        calls.append(now)
        while len(self._calls) > USERS_MOST:
            del self._calls[next(iter(self._calls))]

    def __repr__(self) -> str:
        return f"<CallLimits users={len(self._calls)}>"


_limits: WeakKeyDictionary[object, CallLimits] = WeakKeyDictionary()


def limits_of(cache: object) -> CallLimits:
    """Return the limits that all tools on ``cache`` share: an agent may build its tools for each request."""
    found = _limits.get(cache)
    if found is None:
        found = _limits[cache] = CallLimits()
    return found

"""Rate limit of loads within the leader."""

from collections import deque

from unstale_worker.rules.refresh import Rate


class RateWindow:
    """A sliding window over the loads that were granted; times are seconds of one monotonic clock.

    Example:
        >>> window = RateWindow(Rate(10, 1.0))
        >>> window.grant(25, now=0.0), window.wait(now=0.25)
        (10, 0.75)
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._granted: deque[tuple[float, int]] = deque()
        self._sum = 0

    def grant(self, wanted: int, *, now: float) -> int:
        """Grant as many of ``wanted`` loads as the rate allows; returns how many."""
        self._forget(now)
        granted = min(wanted, self._rate.count - self._sum)
        if granted > 0:
            self._granted.append((now, granted))
            self._sum += granted
        return max(0, granted)

    def wait(self, *, now: float) -> float:
        """Return the seconds until at least one load is granted."""
        self._forget(now)
        if self._sum < self._rate.count:
            return 0.0
        return self._granted[0][0] + self._rate.seconds - now

    def _forget(self, now: float) -> None:
        while self._granted and self._granted[0][0] + self._rate.seconds <= now:
            self._sum -= self._granted.popleft()[1]

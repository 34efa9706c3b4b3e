"""A clock for tests: it goes on like the real one, and can be moved forward."""

from unstale.runtime import clock


class FakeClock:
    """The time of every cache in a test. It never stands still, so that time limits end.

    Example:
        >>> unstale_cache.clock.advance(61)  # a value with ttl=60 has expired
    """

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        """Return seconds since a fixed moment."""
        return clock.now() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once; raises ValueError if they are negative."""
        if not seconds >= 0:
            raise ValueError(f"seconds is {seconds!r}: time goes forward only")
        self._ahead += seconds

    def __repr__(self) -> str:
        return f"<FakeClock {self._ahead:g} s ahead>"

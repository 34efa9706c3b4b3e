"""Health of one dependency: requests, errors, latency; no I/O."""

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Result of the last attempt to reach a dependency."""

    UNKNOWN = "unknown"
    """No request was sent yet."""
    HEALTHY = "healthy"
    """It answered."""
    FAILING = "failing"
    """It did not answer, or answered with a server error or a refusal."""


@dataclass(frozen=True, slots=True)
class Report:
    """Health of one dependency at this moment.

    Attributes:
        state: See `State`.
        requests: Requests begun since the last clean-up, health checks included.
        connection_errors: Requests without an answer: refused, reset, timed out, no free connection.
        latency_ms: Milliseconds the last answered request took until its first byte, or None.
        last_error: Kind of the last error since the last clean-up, without its text; or None.
        seconds_since_answer: Seconds since the last answer, or None.
        in_flight: Requests that hold a connection now.
    """

    state: State
    requests: int
    connection_errors: int
    latency_ms: float | None
    last_error: str | None
    seconds_since_answer: float | None
    in_flight: int

    def as_dict(self) -> dict[str, object]:
        """Return the report, JSON-ready."""
        return {
            "state": self.state.value,
            "requests": self.requests,
            "connection_errors": self.connection_errors,
            "latency_ms": None if self.latency_ms is None else round(self.latency_ms, 2),
            "last_error": self.last_error,
            "seconds_since_answer": (
                None if self.seconds_since_answer is None else round(self.seconds_since_answer, 1)
            ),
            "in_flight": self.in_flight,
        }


class Vitals:
    """Counters of one dependency; safe to call from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget errors and counts."""
        with self._lock:
            self._state = State.UNKNOWN
            self._requests = 0
            self._connection_errors = 0
            self._latency: float | None = None
            self._last_error: str | None = None
            self._answered: float | None = None

    def began(self) -> float:
        """Count a request; pass the result to `answered`."""
        with self._lock:
            self._requests += 1
        return self._clock()

    def answered(self, began: float, *, status: int = 200) -> None:
        """Record an answer with this HTTP status."""
        now = self._clock()
        with self._lock:
            self._latency, self._answered = now - began, now
            if status >= 500:
                self._state, self._last_error = State.FAILING, f"HTTP {status}"
            else:
                self._state = State.HEALTHY

    def failed(self, error: BaseException) -> None:
        """Record that a request got no answer."""
        with self._lock:
            self._connection_errors += 1
            self._state, self._last_error = State.FAILING, kind(error)

    def refused(self, reason: str) -> None:
        """Record an answer that refuses every request, for example because of a wrong key."""
        with self._lock:
            self._state, self._last_error = State.FAILING, reason

    def report(self, *, in_flight: int) -> Report:
        """Return the health now."""
        with self._lock:
            return Report(
                state=self._state,
                requests=self._requests,
                connection_errors=self._connection_errors,
                latency_ms=None if self._latency is None else self._latency * 1000,
                last_error=self._last_error,
                seconds_since_answer=None if self._answered is None else self._clock() - self._answered,
                in_flight=in_flight,
            )


def kind(error: BaseException) -> str:
    """Return the kind of an error. Its text is left out: it may hold URLs, keys or rows."""
    name = type(error).__name__
    code = getattr(error, "sqlstate", None)
    if isinstance(code, str):
        return f"{name} ({code})"
    cause: BaseException | None = error
    for _ in range(8):  # httpx chains the operating system's error to its own
        if cause is None:
            break
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            return f"{name} ({errno.errorcode[cause.errno]})"
        cause = cause.__cause__ or cause.__context__
    return name

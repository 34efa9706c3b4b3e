"""One frozen picture of the worker now, and the counters it is taken from."""

import math
import time
from dataclasses import dataclass, field
from enum import StrEnum

from unstale_worker.observe.refresh_counters import Tally


class Role(StrEnum):
    """What this worker does."""

    STARTING = "starting"
    STANDBY = "standby"
    LEADING = "leading"
    REFRESHING = "refreshing"
    STOPPING = "stopping"


@dataclass(slots=True)
class Counters:
    """What has happened since the start; written by the tasks, read by `Status`."""

    entries: int = 0
    batches: int = 0
    keys: int = 0
    patterns: int = 0
    epochs: int = 0
    recoveries: int = 0
    purged: int = 0
    errors: int = 0
    last_error: str = ""
    caught_up_at: float = field(default=-math.inf)
    watermark_at: float = field(default=-math.inf)

    def failed(self, message: str) -> None:
        """Count an error; the newest is kept as a sentence."""
        self.errors += 1
        self.last_error = message

    def caught_up(self, began: float) -> None:
        """Everything committed before ``began`` (monotonic seconds) is applied."""
        self.caught_up_at = began

    def said(self, at: float) -> None:
        """A watermark was published at ``at`` (monotonic seconds)."""
        self.watermark_at = at


@dataclass(frozen=True, slots=True)
class Status:
    """The worker at one moment.

    Attributes:
        role: Leading, standing by, starting or stopping.
        source: Where changes come from: ``outbox`` or ``supabase``; empty until one answered.
        fence: The fence of this worker's last leadership; 0 before the first.
        lag: Seconds since the beginning of the last read that is applied as a whole; inf before the first.
        watermark_age: Seconds since the last watermark; inf before the first.
        listening: Whether commits can wake this worker; False means polling.
        redis: Whether Redis answered last time.
        database: Whether Postgres answered last time.
        problem: The newest error as a sentence, while it lasts.
        counters: Totals since the start.
        refreshed: What the refreshes of this process have come to.
    """

    role: Role
    source: str
    fence: int
    lag: float
    watermark_age: float
    listening: bool
    redis: bool
    database: bool
    problem: str
    counters: Counters
    refreshed: Tally = field(default_factory=Tally)

    @property
    def ready(self) -> bool:
        """Leading with a lag below 10 s, standing by with both servers in reach, or refreshing with Redis."""
        if self.role is Role.REFRESHING:
            return self.redis
        if self.role is Role.LEADING:
            return self.lag < READY_LAG
        return self.role is Role.STANDBY and self.redis and self.database


READY_LAG = 10.0
"""Seconds of lag from which a leader is not ready: the design's bound."""


def seconds_since(at: float) -> float:
    """Seconds since ``at`` on the monotonic clock."""
    return max(0.0, time.monotonic() - at)

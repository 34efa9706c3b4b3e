"""Frozen copy of a worker's state, and its counters."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from unstale_worker.observe.histogram import Histogram
from unstale_worker.observe.refresh_counters import RefreshCounters


class Role(StrEnum):
    """State of a worker process at one moment."""

    STARTING = "starting"
    STANDBY = "standby"
    LEADING = "leading"
    REFRESHING = "refreshing"
    STOPPING = "stopping"


@dataclass(slots=True)
class WorkerCounters:
    """Totals since the start of the process.

    ``latency`` counts the seconds from a commit to its invalidation: from the wake-up that the commit
    sent, or from the read before, which had not found the change.
    """

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
    latency: Histogram = field(default_factory=Histogram)

    def failed(self, message: str) -> None:
        """Count an error, and keep its message as the newest."""
        self.errors += 1
        self.last_error = message

    def caught_up(self, began: float) -> None:
        """Note that everything committed before ``began`` (monotonic seconds) is applied."""
        self.caught_up_at = began

    def watermark_published(self, at: float) -> None:
        """Note that a watermark was published at ``at`` (monotonic seconds)."""
        self.watermark_at = at


@dataclass(frozen=True, slots=True)
class Status:
    """The worker at one moment.

    Attributes:
        role: Leading, standing by, starting or stopping.
        source: Source of the changes: ``outbox`` or ``supabase``; empty until one answered.
        fence: The fence of this worker's last leadership; 0 before the first.
        lag: Seconds since the last read began that is applied as a whole; inf before the first.
        watermark_age: Seconds since the last watermark; inf before the first.
        listening: True if commits can wake this worker; False means that it polls.
        redis: True if Redis answered last time.
        database: True if Postgres answered last time.
        problem: The newest error as a sentence, while it lasts.
        not_captured: Tables of which changes may go unreported, each with the reason and the remedy. Their
            keys are invalidated again and again. Only the leader checks.
        coarsely_captured: Tables of which a change invalidates more keys than it concerns, with the reason.
        capture_problems: Since when, in seconds since 1970, a table has a problem of one kind.
        former_watches: Watches that the rules lack by now and that the leader still applies: the table, the
            template, and since when, in seconds since 1970, the rules lack it.
        counters: Totals since the start.
        refreshed: Totals of the refreshes of this process.
        redis_tier: Tier of the Redis server (docs/providers.md): ``single``, ``sentinel``, ``cluster`` or
            ``no-run-id``; empty until it was checked.
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
    counters: WorkerCounters
    refreshed: RefreshCounters = field(default_factory=RefreshCounters)
    not_captured: Mapping[str, str] = field(default_factory=dict)
    coarsely_captured: Mapping[str, str] = field(default_factory=dict)
    capture_problems: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    redis_tier: str = ""
    former_watches: tuple[tuple[str, str, float], ...] = ()

    @property
    def ready(self) -> bool:
        """True while it leads with a lag below 10 s, stands by with both servers, or refreshes with Redis."""
        if self.role is Role.REFRESHING:
            return self.redis
        if self.role is Role.LEADING:
            return self.lag < READY_LAG
        return self.role is Role.STANDBY and self.redis and self.database


READY_LAG = 10.0
"""Seconds of lag from which a leader is not ready, as docs/operations.md promises."""


def seconds_since(at: float) -> float:
    """Return the seconds since ``at`` on the monotonic clock."""
    return max(0.0, time.monotonic() - at)

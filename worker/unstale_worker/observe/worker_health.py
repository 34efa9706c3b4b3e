"""A worker's own state, written by its tasks while they work."""

import time
from dataclasses import dataclass, field, replace

from unstale.errors import DatabaseUnavailable, RedisUnavailable
from unstale.protocol.key_watches import Kept
from unstale.protocol.tags import shown
from unstale_worker.captures.coverage import Coverage
from unstale_worker.observe.refresh_counters import RefreshCounters
from unstale_worker.observe.status import Role, Status, WorkerCounters, seconds_since
from unstale_worker.redis.tiers import Tier


@dataclass(slots=True)
class WorkerHealth:
    """Role, servers, the newest problem and all counters of one worker process.

    Attributes:
        role: Leading, standing by, starting or stopping.
        fence: The fence of the last leadership; 0 before the first.
        redis: Redis answered last time.
        database: The database answered last time.
        tier: Tier of the Redis server; None until it was checked.
        problem: The newest error as a sentence, while it lasts.
        first_start: No worker, and no cycle of this one, has been seen to work on this Redis yet.
        coverage: How far the rules' tables are captured, as of the last check.
        problems_since: When each problem of a capture was first seen, in seconds since 1970.
        former: Watches that the rules lack by now, and that are still applied.
        counters: Totals of leading.
        refreshed: Totals of refreshing.
    """

    role: Role = Role.STARTING
    fence: int = 0
    redis: bool = False
    database: bool = False
    tier: Tier | None = None
    problem: str = ""
    first_start: bool = True
    coverage: Coverage = field(default_factory=Coverage)
    problems_since: dict[tuple[str, ...], float] = field(default_factory=dict)
    former: tuple[Kept, ...] = ()
    counters: WorkerCounters = field(default_factory=WorkerCounters)
    refreshed: RefreshCounters = field(default_factory=RefreshCounters)

    def cycled(self) -> None:
        """Note that a cycle succeeded, so both servers answer."""
        self.redis = self.database = True
        self.first_start = False
        self.problem = ""

    def covered(self, coverage: Coverage) -> None:
        """Note how far the rules' tables are captured."""
        self.coverage, now = coverage, time.time()
        self.problems_since = {
            problem: self.problems_since.get(problem, now) for problem in coverage.problems()
        }

    def failed(self, error: Exception) -> None:
        """Note an error that is retried."""
        self.problem = str(error) or type(error).__name__
        self.counters.failed(self.problem)
        if isinstance(error, RedisUnavailable):
            self.redis = False
        elif isinstance(error, DatabaseUnavailable):
            self.database = False

    def status(self, *, source: str, listening: bool) -> Status:
        """Copy it into a frozen `Status`."""
        return Status(
            role=self.role,
            source=source,
            fence=self.fence,
            lag=seconds_since(self.counters.caught_up_at),
            watermark_age=seconds_since(self.counters.watermark_at),
            listening=listening,
            redis=self.redis,
            database=self.database,
            redis_tier="" if self.tier is None else self.tier.value,
            problem=self.problem,
            not_captured={str(table): why for table, why in self.coverage.broken.items()},
            coarsely_captured={str(table): why for table, why in self.coverage.coarse.items()},
            capture_problems=dict(self.problems_since),
            former_watches=tuple(
                (f"{each.watch.schema}.{each.watch.table}", shown(each.watch.template), each.since)
                for each in (self.former if self.role is Role.LEADING else ())
            ),
            counters=replace(self.counters, latency=self.counters.latency.copy()),
            refreshed=self.refreshed.copy(),
        )

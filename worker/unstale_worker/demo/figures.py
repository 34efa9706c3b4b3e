"""The figures of a demo at one moment."""

from collections.abc import Sequence
from dataclasses import dataclass

from unstale_worker.demo.reports import AgentReport, WorkerReport


@dataclass(frozen=True, slots=True)
class DemoFigures:
    """The figures of a demo at one moment.

    Attributes:
        seconds: Seconds since the writer began.
        changes: Committed row changes that affect a key.
        unwatched: Committed row changes that affect no key.
        rollbacks: Transactions that were rolled back.
        reads: Reads by all agents, all of them checked.
        near_hits: Reads answered from the agent's memory.
        redis_hits: Reads answered from Redis.
        loads: Loads from Postgres.
        invalidations: Invalidated keys received, the maximum over the agents.
        stale_reads: Reads older than an invalidation that the agent had received before.
        late_reads: Sampled reads older than the staleness that the cache claimed.
        unconfirmed: Changes for which some agent received a flush instead of the keys.
        outstanding: Changes that some agent has not received yet.
        p50: Median milliseconds from commit to the last agent's near cache; None before the first.
        p99: 99th percentile of the same.
        recent_ms: The newest latencies, for the chart.
        complaint: Description of the first wrong read, or empty.
        agents: The newest report of each agent, sorted by name.
        worker: The newest report of the worker.
        greetings: Greetings returned by agents.
        model_calls: Calls of the language model, by agents or by the worker.
        refreshes: Calls of the language model by the worker, in the background.
        waited: Visitors who had to wait for the model.
        stale_hits: Reads answered with a greeting from before a change, as the rules allow for a while.
        greeting: The newest greeting.
        searches: Searches of memories, under a tag.
        search_loads: Those of them that the database answered.
    """

    seconds: float
    changes: int
    unwatched: int
    rollbacks: int
    reads: int
    near_hits: int
    redis_hits: int
    loads: int
    invalidations: int
    stale_reads: int
    late_reads: int
    unconfirmed: int
    outstanding: int
    p50: float | None
    p99: float | None
    recent_ms: tuple[float, ...]
    complaint: str
    agents: tuple[AgentReport, ...]
    worker: WorkerReport | None
    greetings: int = 0
    model_calls: int = 0
    refreshes: int = 0
    waited: int = 0
    stale_hits: int = 0
    greeting: str = ""
    searches: int = 0
    search_loads: int = 0

    @property
    def unchanged(self) -> int:
        """Calls of the model that the worker saved, as no input had changed."""
        return self.worker.unchanged if self.worker is not None else 0

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of the worker's calls, and of those that it saved."""
        return (self.worker.tokens, self.worker.tokens_saved) if self.worker is not None else (0, 0)

    @property
    def searches_saved(self) -> int:
        """Searches that the cache answered."""
        return max(0, self.searches - self.search_loads)

    @property
    def model_calls_saved(self) -> int:
        """Greetings without a call of the language model."""
        return max(0, self.greetings - self.model_calls)

    @property
    def hit_rate(self) -> float:
        """Share of reads answered by either tier, 0 to 1."""
        hits = self.near_hits + self.redis_hits + self.stale_hits
        return min(1.0, hits / self.reads) if self.reads else 0.0

    @property
    def near_hit_rate(self) -> float:
        """Share of reads answered from the agents' memory, 0 to 1."""
        return self.near_hits / self.reads if self.reads else 0.0

    @property
    def consistent(self) -> bool:
        """True if every read was as fresh as promised."""
        return not self.stale_reads and not self.late_reads


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value that a ``share`` of the values does not exceed; None if there are none."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]

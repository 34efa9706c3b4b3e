"""Compute the demo's figures from reports: latencies, hit rates, stale reads. Pure: times are arguments."""

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from unstale_worker.demo.figures import DemoFigures, percentile
from unstale_worker.demo.reports import (
    AgentReport,
    Commit,
    Heard,
    ModelReport,
    Report,
    Sample,
    WorkerReport,
    WriterReport,
)

KEPT_LATENCIES: Final = 20_000
"""Newest changes used for the percentiles; sorting more at every update would take too long."""
GIVE_UP: Final = 20.0
"""Seconds after which a change counts as unconfirmed if some agent received a flush instead of its keys."""
CHECK_AFTER: Final = 1.0
"""Seconds a sample waits, so that every commit it could have missed has been reported."""
CHARTED: Final = 32
"""Newest latencies returned for the chart."""
KEPT_COMMITS: Final = 64
"""Commits kept per row, for the samples."""


@dataclass(slots=True)
class _PendingChange:
    """A change in flight: the time of its commit, and the time each agent received it."""

    since: float
    committed: float | None = None
    heard: dict[str, float] = field(default_factory=dict)


class Ledger:
    """Receives every report; `figures` computes the current figures."""

    def __init__(self, *, agents: int) -> None:
        self._expected = agents
        self._open: dict[tuple[str, int], _PendingChange] = {}
        self._latencies: deque[float] = deque(maxlen=KEPT_LATENCIES)
        self._commits: dict[str, deque[Commit]] = {}
        self._samples: deque[tuple[float, Sample]] = deque()
        self._agents: dict[str, AgentReport] = {}
        self._worker: WorkerReport | None = None
        self._changes = self._unwatched = self._rollbacks = self._unconfirmed = self._late = 0
        self._complaint = ""
        self._first: float | None = None
        self._greeting = ""
        self.model_url = ""
        """URL of the stand-in for a language model, once it is known."""
        self._news: deque[str] = deque(maxlen=64)

    def receive(self, report: Report, *, now: float) -> None:
        """Process a report at ``now``, in seconds of the machine's monotonic clock."""
        match report:
            case WriterReport():
                self._unwatched += report.unwatched
                self._rollbacks += report.rollbacks
                for commit in report.commits:
                    self._committed(commit, now=now)
            case AgentReport():
                self._agents[report.name] = report
                for heard in report.heard:
                    self._heard(report.name, heard, now=now)
                self._samples.extend((now, sample) for sample in report.samples)
                self._complaint = self._complaint or (
                    f"{report.name}: {report.complaint}" if report.complaint else ""
                )
                if report.name == min(self._agents):
                    self._news.extend(report.recent)
                self._greeting = report.greeting or self._greeting
            case WorkerReport():
                self._worker = report
            case ModelReport():
                self.model_url = report.url
        self._forget(now)

    def news(self) -> tuple[str, ...]:
        """Return the newest invalidations of one agent as text, oldest first."""
        return tuple(self._news)

    @property
    def outstanding(self) -> int:
        """Number of changes that some agent has not received yet.

        A version that agents received but that was never reported as committed is a row's initial version.
        """
        return sum(change.committed is not None for change in self._open.values())

    @property
    def changes(self) -> int:
        """Number of committed changes so far."""
        return self._changes

    def attached(self, *, reads: int = 0) -> int:
        """Return the number of attached agents with at least ``reads`` reads."""
        return sum(agent.attached and agent.reads >= reads for agent in self._agents.values())

    def finish(self) -> None:
        """Check the remaining samples; call this after the last report."""
        self._check(math.inf)

    def figures(self, *, now: float) -> DemoFigures:
        """Return the figures at ``now``."""
        self._check(now)
        agents = tuple(self._agents[name] for name in sorted(self._agents))
        ordered = sorted(self._latencies)
        refreshes = self._worker.refreshes if self._worker is not None else 0
        return DemoFigures(
            seconds=now - self._first if self._first is not None else 0.0,
            changes=self._changes,
            unwatched=self._unwatched,
            rollbacks=self._rollbacks,
            reads=sum(agent.reads for agent in agents),
            near_hits=sum(agent.near_hits for agent in agents),
            redis_hits=sum(agent.redis_hits for agent in agents),
            loads=sum(agent.loads for agent in agents),
            invalidations=max((agent.invalidations for agent in agents), default=0),
            stale_reads=sum(agent.stale_reads for agent in agents),
            late_reads=self._late,
            unconfirmed=self._unconfirmed,
            outstanding=self.outstanding,
            p50=percentile(ordered, 0.50),
            p99=percentile(ordered, 0.99),
            recent_ms=tuple(islice(reversed(self._latencies), CHARTED))[::-1],
            complaint=self._complaint,
            agents=agents,
            worker=self._worker,
            greetings=sum(agent.greetings for agent in agents),
            model_calls=sum(agent.model_calls for agent in agents) + refreshes,
            refreshes=refreshes,
            searches=sum(agent.searches for agent in agents),
            search_loads=sum(agent.search_loads for agent in agents),
            waited=sum(agent.waited for agent in agents),
            stale_hits=sum(agent.stale_hits for agent in agents),
            greeting=self._greeting,
        )

    def _committed(self, commit: Commit, *, now: float) -> None:
        self._first = min(self._first, commit.at) if self._first is not None else commit.at
        self._changes += 1
        self._commits.setdefault(commit.source, deque(maxlen=KEPT_COMMITS)).append(commit)
        change = self._open.setdefault((commit.source, commit.version), _PendingChange(now))
        change.committed = commit.at
        self._close(commit.source, commit.version, change)

    def _heard(self, agent: str, heard: Heard, *, now: float) -> None:
        change = self._open.setdefault((heard.source, heard.version), _PendingChange(now))
        change.heard[agent] = heard.at
        self._close(heard.source, heard.version, change)

    def _close(self, source: str, version: int, change: _PendingChange) -> None:
        if change.committed is not None and len(change.heard) == self._expected:
            # An agent can receive a change before the writer receives the acknowledgement of its commit.
            self._latencies.append(max(0.0, max(change.heard.values()) - change.committed) * 1000)
            del self._open[source, version]

    def _forget(self, now: float) -> None:
        while self._open:
            key = next(iter(self._open))
            if now - self._open[key].since < GIVE_UP:
                return
            self._unconfirmed += self._open.pop(key).committed is not None

    def _check(self, now: float) -> None:
        while self._samples and now - self._samples[0][0] >= CHECK_AFTER:
            _, sample = self._samples.popleft()
            for commit in self._commits.get(sample.source, ()):
                if commit.version > sample.version and commit.at < sample.before:
                    self._late += 1
                    late_ms = (sample.before - commit.at) * 1000
                    self._complaint = self._complaint or (
                        f"version {sample.version} of {sample.source} was served {late_ms:.0f} ms later than "
                        "the claimed staleness allows"
                    )
                    break

"""Prometheus metrics about the agents, from their reports; the number of labels is bounded.

Counts of agents that come and go do not add up to a counter: the sum falls when an agent leaves. So the
worker keeps the newest counts of each agent, and adds what is new to totals of its own.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unstale.near_cache.tallies import OTHERS
from unstale.protocol.agent_reports import Counted
from unstale_worker.agents.read import Agents
from unstale_worker.observe.alert import Alert

MOST_PATTERNS: Final = 100
"""Patterns with a label of their own; the others share one."""
MOST_REMEMBERED: Final = 10_000
"""Agents whose newest counts are kept, those that reported last."""
UNOWNED: Final = "(no rule)"
"""Label of all keys that no rule owns: agents choose their shapes, so those are no labels."""


@dataclass(frozen=True, slots=True)
class AgentMetric:
    """One metric about the agents.

    Attributes:
        name: Name in Prometheus; counters end in ``_total``.
        kind: A gauge goes up and down, a counter only up.
        help: One sentence; docs/metrics.md has the same name as a heading.
        labels: Names of its labels.
        alert: The alert on it.
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()
    alert: Alert | None = None


GAUGES: Final[tuple[tuple[AgentMetric, Callable[[Agents], float]], ...]] = (
    (
        AgentMetric("unstale_agents_reporting", "gauge", "Agents that report to Redis."),
        lambda agents: len(agents.agents) + agents.left_out,
    ),
    (
        AgentMetric(
            "unstale_agents_detached",
            "gauge",
            "Agents among them that do not trust their memory.",
            alert=Alert(
                "UnstaleAgentsDetached",
                "{name} > 0",
                120,
                "critical",
                "Agents do not hear of changes: they load again and again, and keep values for seconds only.",
                "troubleshooting.md",
            ),
        ),
        lambda agents: sum(agent.report.attached is None for agent in agents.agents),
    ),
    (
        AgentMetric(
            "unstale_agents_other_rules",
            "gauge",
            "Agents that follow other rules than those in force.",
            alert=Alert(
                "UnstaleAgentsOtherRules",
                "{name} > 0",
                120,
                "warning",
                "Agents have not heard of the rules in force: unstale agents names them.",
                "observe.md#see-the-agents",
            ),
        ),
        lambda agents: len(agents.others),
    ),
    (
        AgentMetric(
            "unstale_agents_staleness_seconds", "gauge", "The largest staleness of an attached agent."
        ),
        lambda agents: max((agent.report.staleness or 0.0 for agent in agents.agents), default=0.0),
    ),
    (
        AgentMetric(
            "unstale_agents_misspelt_shapes",
            "gauge",
            "Shapes of keys that look like a misspelt key of a rule.",
            alert=Alert(
                "UnstaleMisspeltKeys",
                "{name} > 0",
                600,
                "warning",
                "Agents read keys that no change removes; unstale agents says what was meant.",
                "observe.md#see-the-agents",
            ),
        ),
        lambda agents: sum(bool(shape.meant) for shape in agents.shapes.values()),
    ),
)
READS: Final = AgentMetric(
    "unstale_agents_reads_total", "counter", "Reads of all agents, by key pattern and source of the answer.",
    ("pattern", "answer"),
)  # fmt: skip
LOADS: Final = AgentMetric(
    "unstale_agents_loads_total", "counter", "Calls of loaders by all agents.", ("pattern",)
)
LOAD_SECONDS: Final = AgentMetric(
    "unstale_agents_load_seconds_total", "counter", "Time that those calls took.", ("pattern",)
)
FILLS: Final = AgentMetric(
    "unstale_agents_fills_total", "counter", "Values that agents stored in Redis, or could not store.",
    ("pattern", "result"),
)  # fmt: skip
AGENT_METRICS: Final = (*(metric for metric, _ in GAUGES), READS, LOADS, LOAD_SECONDS, FILLS)

ANSWERS: Final = {"near": "near_hits", "redis": "redis_hits", "stale": "stale_hits", "miss": "misses"}


class AgentTotals:
    """Adds the counts of all agents up, so that totals only grow.

    Example:
        >>> totals = AgentTotals()
        >>> text = totals.text(agents)
        >>> totals.patterns["user:*:profile"].loads
        7
    """

    def __init__(self) -> None:
        self.patterns: dict[str, Counted] = {}
        self._seen: OrderedDict[str, dict[str, Counted]] = OrderedDict()

    def add(self, agents: Agents) -> None:
        """Add what is new since the last call."""
        for agent in agents.agents:
            unowned = sum((shape.counted for shape in agent.report.shapes.values()), Counted())
            now = {**agent.report.patterns, UNOWNED: unowned}
            before = self._seen.get(agent.id, {})
            for name, counted in now.items():
                label = name if name in self.patterns or len(self.patterns) < MOST_PATTERNS else OTHERS
                known = self.patterns.get(label, Counted())
                self.patterns[label] = known + (counted - before.get(name, Counted()))
            self._seen[agent.id] = {**before, **now}
            self._seen.move_to_end(agent.id)
        while len(self._seen) > MOST_REMEMBERED:
            self._seen.popitem(last=False)

    def text(self, agents: Agents) -> bytes:
        """Add what is new, and return the metrics for a scrape."""
        self.add(agents)
        registry = CollectorRegistry()
        registry.register(_Families(list(self.families(agents))))
        return generate_latest(registry)

    def families(self, agents: Agents) -> Iterator[Metric]:
        """Yield the metrics of these agents, and the totals."""
        for metric, value in GAUGES:
            yield _gauge(metric, value(agents))
        reads, loads, seconds, fills = map(_counter, (READS, LOADS, LOAD_SECONDS, FILLS))
        for pattern, counted in self.patterns.items():
            for answer, field in ANSWERS.items():
                reads.add_metric([pattern, answer], getattr(counted, field))
            loads.add_metric([pattern], counted.loads + counted.loads_ahead)
            seconds.add_metric([pattern], counted.load_seconds)
            fills.add_metric([pattern, "stored"], counted.fills)
            fills.add_metric([pattern, "refused"], counted.fills_refused)
        yield from (reads, loads, seconds, fills)

    def __repr__(self) -> str:
        return f"<AgentTotals {len(self.patterns)} patterns, {len(self._seen)} agents>"


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _gauge(metric: AgentMetric, value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.help)
    family.add_metric([], value)
    return family


def _counter(metric: AgentMetric) -> CounterMetricFamily:
    return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)

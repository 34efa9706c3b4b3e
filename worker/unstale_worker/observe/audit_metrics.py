"""Prometheus metrics of the result of an audit."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unstale_worker.observe.audit_result import Published


def metrics_text(result: Published) -> bytes:
    """Return them in Prometheus' text format."""
    return generate_latest(registry_of(result))


def registry_of(result: Published) -> CollectorRegistry:
    """Return a registry with nothing else."""
    registry = CollectorRegistry()
    registry.register(_Collector(result))
    return registry


class _Collector(Collector):
    def __init__(self, result: Published) -> None:
        self._result = result

    def collect(self) -> Iterator[Metric]:
        result = self._result
        comparisons = CounterMetricFamily(
            "unstale_audit_comparisons_total",
            "Comparisons of a cached value with the database, by outcome.",
            labels=("table", "delay", "outcome"),
        )
        for line in result.lines:
            for outcome, times in line.outcomes.items():
                comparisons.add_metric((line.table, line.delay, outcome), times)
        yield comparisons
        for name, text, count in (
            ("violations", "Keys whose value was found wrong.", result.violation_count),
            ("broken_promises", "Looks at which the watermark claimed too much.", result.broken_promises),
            ("outages", "Rounds in which a server did not answer.", result.outages),
        ):
            yield CounterMetricFamily(f"unstale_audit_{name}_total", text, value=count)
        for name, text, number in (
            ("violations_lasting", "Keys that were still wrong at the last look.",
             float(result.violations_lasting)),
            ("staleness_promised_worst_seconds", "Largest staleness that a watermark promised.",
             result.worst_promised_s),
            ("staleness_seen_worst_seconds", "Largest age of a change that was not applied.",
             result.worst_seen_s),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"unstale_audit_{name}", text, value=number)

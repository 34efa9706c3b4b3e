"""The figures of an audit as Prometheus metrics, in a file for the node exporter's textfile collector."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unstale_worker.audit.auditor import Auditor
from unstale_worker.audit.judging import Outcome


def write_metrics(path: Path, auditor: Auditor) -> None:
    """Replace the file in one step."""
    registry = CollectorRegistry()
    registry.register(_Collector(auditor))
    write_to_textfile(str(path), registry)


class _Collector(Collector):
    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor

    def collect(self) -> Iterator[Metric]:
        tally = self._auditor.tally
        comparisons = CounterMetricFamily(
            "unstale_audit_comparisons_total",
            "Comparisons of a cached value with the database, by outcome.",
            labels=("table", "delay", "outcome"),
        )
        for (table, delay), line in tally.lines.items():
            for outcome in Outcome:
                comparisons.add_metric((table, delay, outcome.value), line.outcomes[outcome])
        yield comparisons
        for name, text, value in (
            ("violations", "Keys whose value was found wrong.", self._auditor.violations.count),
            ("broken_promises", "Looks at which the watermark claimed too much.", tally.broken_promises),
            ("outages", "Rounds in which a server did not answer.", tally.outages),
        ):
            yield CounterMetricFamily(f"unstale_audit_{name}_total", text, value=value)
        for name, text, number in (
            ("violations_lasting", "Keys that were still wrong at the last look.",
             float(len(self._auditor.violations.lasting))),
            ("staleness_promised_worst_seconds", "Largest staleness that a watermark promised.",
             tally.worst_promised),
            ("staleness_seen_worst_seconds", "Largest age of a change that was not applied.",
             tally.worst_seen),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"unstale_audit_{name}", text, value=number)

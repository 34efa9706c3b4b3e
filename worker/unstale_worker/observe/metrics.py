"""The worker's Prometheus metrics, each read from a `Status` at every scrape."""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from unstale_worker.observe.histogram import BOUNDS, Histogram
from unstale_worker.observe.metric_table import DEFINITIONS, Definition
from unstale_worker.observe.status import Status

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one worker, in their own registry.

    Example:
        >>> text = Metrics(worker.status).text()
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(status))

    def text(self) -> bytes:
        """Return the answer to a scrape."""
        return generate_latest(self._registry)


class _Collector(Collector):
    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for definition in DEFINITIONS:
            yield _family(definition, definition.value(status))


def _family(definition: Definition, value: float | Histogram | Mapping[tuple[str, ...], float]) -> Metric:
    if isinstance(value, Histogram):
        bounds = [*map(str, BOUNDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(value.counts)), strict=True))
        return HistogramMetricFamily(definition.name, definition.help, buckets, value.total)
    kind = GaugeMetricFamily if definition.kind == "gauge" else CounterMetricFamily
    family: GaugeMetricFamily | CounterMetricFamily = kind(
        definition.name, definition.help, labels=definition.labels
    )
    for labels, number in value.items() if isinstance(value, Mapping) else [((), value)]:
        family.add_metric(labels, number)
    return family

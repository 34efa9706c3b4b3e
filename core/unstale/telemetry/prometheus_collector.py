"""A collector of a cache's counters, for the ``/metrics`` of the agent's own process."""

from collections.abc import Iterator

from unstale.runtime.extras import needs
from unstale.telemetry.table import CacheMetric, Counted, values

with needs("prometheus", what="CacheCollector"):
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector


class CacheCollector(Collector):
    """Reads the counters of a cache at each scrape; a read of the cache costs nothing more.

    Example:
        >>> from prometheus_client import REGISTRY
        >>> REGISTRY.register(CacheCollector(cache))

    Args:
        cache: The cache.
        name: Value of the label ``cache``, where a process has several.
    """

    def __init__(self, cache: Counted, *, name: str = "default") -> None:
        self._cache, self._name = cache, name

    def describe(self) -> Iterator[Metric]:
        """Return nothing, so that the counters are not read when the collector is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for metric, value in values(self._cache):
            if metric.name not in families:
                families[metric.name] = _family(metric)
            labels = [self._name] if metric.label is None else [self._name, metric.label]
            families[metric.name].add_metric(labels, value)
        yield from families.values()


def _family(metric: CacheMetric) -> CounterMetricFamily | GaugeMetricFamily:
    labels = ["cache"] if metric.label is None else ["cache", "answer"]
    if metric.kind == "gauge":
        return GaugeMetricFamily(metric.name, metric.help, labels=labels)
    return CounterMetricFamily(metric.name, metric.help, labels=labels)

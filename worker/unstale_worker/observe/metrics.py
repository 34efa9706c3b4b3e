"""The worker's Prometheus metrics, each read from a `Status` at every scrape."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from unstale_worker.observe.histogram import BOUNDS, Histogram
from unstale_worker.observe.status import Role, Status

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        name: Name in Prometheus; counters end in ``_total``.
        kind: A gauge goes up and down, a counter only up; a histogram counts durations.
        help: One sentence; docs/metrics.md has the same name as a heading.
        value: Reads it from a status; NaN if it is not known yet.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    value: Callable[[Status], float | Histogram]


DEFINITIONS: Final = (
    Definition(
        "unstale_worker_ready",
        "gauge",
        "1 while /readyz answers 200.",
        lambda status: float(status.ready),
    ),
    Definition(
        "unstale_worker_leading",
        "gauge",
        "1 on the worker that leads; summed over all workers it is 1.",
        lambda status: float(status.role is Role.LEADING),
    ),
    Definition(
        "unstale_worker_fence",
        "gauge",
        "Number of this worker's last leadership; it grows with each one.",
        lambda status: float(status.fence),
    ),
    Definition(
        "unstale_worker_lag_seconds",
        "gauge",
        "Age of the newest read that is applied as a whole.",
        lambda status: _known(status.lag),
    ),
    Definition(
        "unstale_worker_latency_seconds",
        "histogram",
        "Estimated seconds from a commit to its invalidation in Redis.",
        lambda status: status.counters.latency,
    ),
    Definition(
        "unstale_worker_watermark_age_seconds",
        "gauge",
        "Seconds since the last watermark was published.",
        lambda status: _known(status.watermark_age),
    ),
    Definition(
        "unstale_worker_listening",
        "gauge",
        "1 while a commit can wake this worker; 0 means that it only polls.",
        lambda status: float(status.listening),
    ),
    Definition(
        "unstale_worker_redis_up",
        "gauge",
        "1 while Redis answers.",
        lambda status: float(status.redis),
    ),
    Definition(
        "unstale_worker_database_up",
        "gauge",
        "1 while Postgres answers.",
        lambda status: float(status.database),
    ),
    Definition(
        "unstale_worker_captures_broken",
        "gauge",
        "Tables of which changes may go unreported; their keys are invalidated every 15 s.",
        lambda status: float(len(status.not_captured)),
    ),
    Definition(
        "unstale_worker_captures_coarse",
        "gauge",
        "Tables of which each change invalidates more keys than it concerns.",
        lambda status: float(len(status.coarsely_captured)),
    ),
    Definition(
        "unstale_worker_entries_total",
        "counter",
        "Outbox entries applied; one carries many rows of a bulk statement.",
        lambda status: float(status.counters.entries),
    ),
    Definition(
        "unstale_worker_batches_total",
        "counter",
        "Batches applied.",
        lambda status: float(status.counters.batches),
    ),
    Definition(
        "unstale_worker_keys_total",
        "counter",
        "Keys invalidated by name.",
        lambda status: float(status.counters.keys),
    ),
    Definition(
        "unstale_worker_patterns_total",
        "counter",
        "Patterns invalidated; each costs a scan of Redis.",
        lambda status: float(status.counters.patterns),
    ),
    Definition(
        "unstale_worker_epochs_total",
        "counter",
        "New epochs begun: Redis failed over or lost its state, or a column's type changed.",
        lambda status: float(status.counters.epochs),
    ),
    Definition(
        "unstale_worker_recoveries_total",
        "counter",
        "Recoveries: every owned key was dropped, because no position could be trusted.",
        lambda status: float(status.counters.recoveries),
    ),
    Definition(
        "unstale_worker_purged_total",
        "counter",
        "Outbox entries purged.",
        lambda status: float(status.counters.purged),
    ),
    Definition(
        "unstale_worker_refresh_filled_total",
        "counter",
        "Keys refreshed by this process.",
        lambda status: float(status.refreshed.filled),
    ),
    Definition(
        "unstale_worker_refresh_overtaken_total",
        "counter",
        "Loads that a newer change overtook; the key was loaded again.",
        lambda status: float(status.refreshed.overtaken),
    ),
    Definition(
        "unstale_worker_refresh_failed_total",
        "counter",
        "Refreshes that failed, each of them attempted again or a dead letter.",
        lambda status: float(status.refreshed.failed),
    ),
    Definition(
        "unstale_worker_refresh_dead_letters_total",
        "counter",
        "Keys whose refresh failed for good in this process; they stay invalidated.",
        lambda status: float(status.refreshed.dead),
    ),
    Definition(
        "unstale_worker_refresh_dispatched_total",
        "counter",
        "Keys that this leader made ready for Python loaders, wherever they run.",
        lambda status: float(status.refreshed.dispatched),
    ),
    Definition(
        "unstale_worker_errors_total",
        "counter",
        "Errors, each of them logged and retried.",
        lambda status: float(status.counters.errors),
    ),
)


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


def _family(definition: Definition, value: float | Histogram) -> Metric:
    if isinstance(value, Histogram):
        bounds = [*map(str, BOUNDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(value.counts)), strict=True))
        return HistogramMetricFamily(definition.name, definition.help, buckets, value.total)
    family: GaugeMetricFamily | CounterMetricFamily = (
        GaugeMetricFamily(definition.name, definition.help)
        if definition.kind == "gauge"
        else CounterMetricFamily(definition.name, definition.help)
    )
    family.add_metric([], value)
    return family


def _known(seconds: float) -> float:
    return seconds if math.isfinite(seconds) else math.nan

"""The table of an agent's metrics: `CacheCollector` and `observe` both come from here."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol


class Counted(Protocol):
    """A cache, as far as its metrics go: a `unstale.Cache`, or a `unstale.sync.Cache`."""

    @property
    def attached(self) -> bool: ...

    @property
    def staleness(self) -> float: ...

    def counters(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class CacheMetric:
    """One metric of a cache.

    Attributes:
        name: Name in Prometheus; counters get ``_total`` there.
        kind: A gauge goes up and down, a counter only up.
        help: One sentence; docs/telemetry.md has the same.
        value: Reads it from a cache and its counters.
        label: For reads: the source of the answer.
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    value: Callable[[Counted, Any], float]
    label: str | None = None


def _counter(name: str, field: str, help: str, label: str | None = None) -> CacheMetric:
    return CacheMetric(name, "counter", help, lambda _, counters: float(getattr(counters, field)), label)


READS: Final = "Reads, by the source of the answer."
CACHE_METRICS: Final = (
    CacheMetric(
        "unstale_cache_attached", "gauge", "1 while the near cache is trusted.",
        lambda cache, _: float(cache.attached),
    ),
    CacheMetric(
        "unstale_cache_staleness_seconds", "gauge",
        "How old an answer can be; +Inf while detached.",
        lambda cache, _: cache.staleness,
    ),
    CacheMetric(
        "unstale_cache_entries", "gauge", "Values in memory.",
        lambda _, counters: float(counters.near_entries),
    ),
    CacheMetric(
        "unstale_cache_bytes", "gauge", "Bytes that the values in memory are counted with.",
        lambda _, counters: float(counters.near_bytes),
    ),
    _counter("unstale_cache_reads", "near_hits", READS, "near"),
    _counter("unstale_cache_reads", "redis_hits", READS, "redis"),
    _counter("unstale_cache_reads", "stale_hits", READS, "stale"),
    _counter("unstale_cache_reads", "slow_hits", READS, "slow"),
    _counter("unstale_cache_reads", "failed_hits", READS, "failed"),
    _counter("unstale_cache_reads", "misses", READS, "miss"),
    _counter("unstale_cache_loads", "loads", "Loads for a waiting caller."),
    _counter("unstale_cache_loads_ahead", "loads_ahead", "Loads in the background, before a value expires."),
    _counter("unstale_cache_unowned_loads", "unowned_loads", "Loads of keys that no rule owns."),
    _counter("unstale_cache_fills", "fills", "Values stored in Redis."),
    _counter("unstale_cache_fills_refused", "fills_refused", "Values that a change overtook, so not stored."),
    _counter(
        "unstale_cache_too_large_values", "too_large_values", "Values not stored because of their size."
    ),
    _counter(
        "unstale_cache_unreadable_values", "unreadable_values",
        "Cached values that their reader could not use; each is a miss.",
    ),
    _counter("unstale_cache_invalidations", "invalidations", "Invalidations received."),
    _counter("unstale_cache_flushes", "flushes", "Times that everything was dropped."),
    _counter("unstale_cache_replays", "replays", "Times that the log was read."),
    _counter("unstale_cache_evictions", "evictions", "Values dropped because a bound was reached."),
    _counter(
        "unstale_cache_lost_invalidations", "lost_invalidations",
        "Own invalidations that Redis did not confirm.",
    ),
    _counter("unstale_cache_unreadable_messages", "unreadable_messages", "Messages that cannot be decoded."),
    _counter("unstale_cache_audited", "audited", "Audits with a result."),
    _counter("unstale_cache_audit_mismatches", "audit_mismatches", "Audits that found a wrong value."),
)  # fmt: skip


def values(cache: Counted) -> Iterator[tuple[CacheMetric, float]]:
    """Read all metrics of a cache; what is not known is left out."""
    counters = cache.counters()
    for metric in CACHE_METRICS:
        value = metric.value(cache, counters)
        if not math.isnan(value):
            yield metric, value

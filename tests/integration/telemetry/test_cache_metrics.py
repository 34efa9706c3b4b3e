"""The counters of a cache reach Prometheus and OpenTelemetry, and the page lists them."""

from __future__ import annotations

from pathlib import Path

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from unstale import Cache
from unstale.telemetry import CacheCollector, observe
from unstale.telemetry.table import CACHE_METRICS

PAGE = Path(__file__).parents[3] / "docs" / "telemetry.md"


async def test_both_say_what_the_counters_say(redis_url: str) -> None:
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    registry = CollectorRegistry()
    async with Cache.from_env(env_file=None, redis_url=redis_url) as cache:
        registry.register(CacheCollector(cache, name="sessions"))
        observe(cache, name="sessions")
        for number in range(3):
            await cache.get_or_load(f"k:{number}", lambda: 1)
        text = generate_latest(registry).decode()
        assert 'unstale_cache_reads_total{answer="miss",cache="sessions"} 3.0' in text
        assert 'unstale_cache_attached{cache="sessions"} 0.0' in text
        assert 'unstale_cache_staleness_seconds{cache="sessions"} +Inf' in text
        data = reader.get_metrics_data()
        assert data is not None
        found = {
            metric.name: {point.attributes.get("answer"): point.value for point in metric.data.data_points}  # type: ignore[union-attr]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        assert found["unstale.cache.reads"]["miss"] == 3
        assert found["unstale.cache.loads"][None] == cache.counters().loads
        assert "unstale.cache.staleness.seconds" not in found  # not finite


def test_the_page_has_each_metric_with_its_own_sentence() -> None:
    text = PAGE.read_text()
    for metric in CACHE_METRICS:
        assert f"| `{metric.name}` | {metric.kind} | {metric.help} |" in text

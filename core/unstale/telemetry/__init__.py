"""Counters of a cache for Prometheus and OpenTelemetry, read when they are asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unstale.telemetry.opentelemetry_counters import observe as observe
    from unstale.telemetry.prometheus_collector import CacheCollector as CacheCollector

__all__ = ["CacheCollector", "observe"]


def __getattr__(name: str) -> Any:
    """Load each only where it is used: their packages are extras."""
    if name == "CacheCollector":
        from unstale.telemetry.prometheus_collector import CacheCollector

        return CacheCollector
    if name == "observe":
        from unstale.telemetry.opentelemetry_counters import observe

        return observe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The counters of a cache as OpenTelemetry's observable instruments."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from weakref import ref

from unstale.runtime.extras import needs
from unstale.telemetry.table import CACHE_METRICS, Counted, values

with needs("otel", what="unstale.telemetry.observe"):
    from opentelemetry.metrics import CallbackOptions, Observation, get_meter


def observe(cache: Counted, *, name: str = "default") -> None:
    """Let OpenTelemetry read the counters of ``cache`` whenever it exports; ends with the cache.

    Example:
        >>> async with Cache.from_env() as cache:
        ...     observe(cache)

    Args:
        cache: The cache.
        name: Value of the attribute ``cache``, where a process has several.
    """
    meter, held = get_meter("unstale"), ref(cache)
    for metric in {metric.name: metric for metric in CACHE_METRICS}.values():
        instrument: Callable[..., Any] = (
            meter.create_observable_gauge if metric.kind == "gauge" else meter.create_observable_counter
        )
        read = partial(_read, held, metric.name, name)
        instrument(metric.name.replace("_", "."), callbacks=[read], description=metric.help)


def _read(held: "ref[Counted]", wanted: str, name: str, _: CallbackOptions) -> Iterable[Observation]:
    cache = held()
    if cache is None:
        return
    for metric, value in values(cache):
        if metric.name == wanted and math.isfinite(value):
            more = {} if metric.label is None else {"answer": metric.label}
            yield Observation(value, {"cache": name, **more})

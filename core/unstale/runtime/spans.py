"""Spans and durations for OpenTelemetry; the package is loaded only where `UNSTALE_OTEL` is set."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from unstale.runtime.extras import needs

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

TRACEPARENT = "traceparent"
"""Field of an annotation, as W3C Trace Context has it: ``00-<trace id>-<span id>-01``."""


class Spans:
    """Makes spans and measures how long they take, with the providers that the application has set up.

    Example:
        >>> spans = Spans()
        >>> with spans.span("unstale.load", {"unstale.key": "user:42:profile"}):
        ...     value = await load()
    """

    def __init__(self) -> None:
        with needs("otel", what="UNSTALE_OTEL"):
            from opentelemetry import metrics, trace
        self._tracer = trace.get_tracer("unstale")
        self._durations = metrics.get_meter("unstale").create_histogram(
            "unstale.duration", unit="s", description="Time that loads, refreshes and first fresh reads take."
        )

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, Any]) -> Iterator["Span"]:
        """Time the body; an exception is recorded and passed on."""
        began = time.perf_counter()
        try:
            with self._tracer.start_as_current_span(name, attributes=attributes) as span:
                yield span
        finally:
            self._durations.record(time.perf_counter() - began, {"unstale.operation": name})


def remote_span(annotation: Mapping[str, object] | None) -> "SpanContext | None":
    """Return the span that an annotation names in `TRACEPARENT`; None if it names none."""
    parent = None if annotation is None else annotation.get(TRACEPARENT)
    if not isinstance(parent, str):
        return None
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({TRACEPARENT: parent})
    found = trace.get_current_span(context).get_span_context()
    return found if found.is_valid else None

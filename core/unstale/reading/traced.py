"""The read path with spans, for `UNSTALE_OTEL`. A near hit does not come here, so it stays as it is."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from unstale.freshness.causes import Causes
from unstale.protocol.names import LogId
from unstale.reading.loader import Load, Loader
from unstale.reading.options import ReadOptions
from unstale.reading.read_path import ReadPath
from unstale.reading.result import ReadResult
from unstale.reading.single_flight import Flight
from unstale.runtime.cancellation import cancelled
from unstale.runtime.spans import Spans, remote_span


def read_path(causes: Causes | None) -> Callable[..., ReadPath]:
    """Return the class of the read path; raises `MissingExtra` if spans are wanted without their package."""
    return ReadPath if causes is None else partial(TracedReadPath, spans=Spans(), causes=causes)


class TracedReadPath(ReadPath):
    """Makes a span of each load, and of the first read of a key after its invalidation.

    The span of that read is linked to the one that changed the row, if the transaction told it: ``select
    unstale.because('{"traceparent": "00-…"}')``. The log is asked for it beside the read.
    """

    def __init__(self, *arguments: Any, spans: Spans, causes: Causes, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._spans, self._causes = spans, causes

    async def read(self, key: str, loader: Loader, options: ReadOptions) -> ReadResult:
        """See `ReadPath.read`."""
        entry = self._causes.take(key)
        if entry is None:
            return await super().read(key, loader, options)
        return await self._first_read(key, loader, options, entry)

    async def _first_read(self, key: str, loader: Loader, options: ReadOptions, entry: LogId) -> ReadResult:
        asked = asyncio.create_task(self._causes.annotation(entry, key), name="unstale-cause")
        try:
            with self._spans.span("unstale.read", {"unstale.key": key, "unstale.entry": entry}) as span:
                result = await super().read(key, loader, options)
                span.set_attribute("unstale.origin", str(result.origin))
                with suppress(Exception):
                    changed = remote_span(await asked)
                    if changed is not None:
                        span.add_link(changed)
                return result
        finally:
            await cancelled(asked)

    async def _load(self, flight: Flight, load: Load) -> bytes:
        with self._spans.span("unstale.load", {"unstale.key": flight.key, "unstale.ahead": flight.early}):
            return await super()._load(flight, load)

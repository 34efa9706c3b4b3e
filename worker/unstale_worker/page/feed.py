"""The live figures of the page: one sample a second, whatever the load, and the last quarter of an hour.

A sample of this process costs nothing outside it and is always taken. Redis is asked only while somebody
watches, once for all who do. A watcher that is slow misses samples; nothing is queued for it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import orjson

from unstale.runtime.cancellation import background, pass_on_cancellation
from unstale.settings import WorkerSettings
from unstale_worker.observe.histogram import quantile
from unstale_worker.observe.http import as_dict
from unstale_worker.observe.status import Status
from unstale_worker.page.redis_figures import RedisFigures
from unstale_worker.redis.client import open_redis
from unstale_worker.rules import Rules
from unstale_worker.runtime.logs import without_passwords

EVERY: Final = 1.0
"""Seconds between two samples."""
KEPT: Final = 900
"""Samples that are kept: the last 15 minutes."""
FIELDS: Final = ("at", "entries", "batches", "keys", "patterns", "refreshed", "p50", "p99", "lag", "errors")
"""Fields of a sample: seconds since 1970, rates per second, and seconds; errors are a number."""

Sample = tuple[float | None, ...]


class Feed:
    """Samples a worker, and tells those who watch.

    Example:
        >>> async with Feed(settings, rules, worker.status).running() as feed:
        ...     async for event in feed.watch():
        ...         await response.write(event)
    """

    def __init__(self, settings: WorkerSettings, rules: Rules, status: Callable[[], Status]) -> None:
        self._settings, self._rules, self._status = settings, rules, status
        self._kept: deque[Sample] = deque(maxlen=KEPT)
        self._last: Status | None = None
        self._last_at = 0.0
        self._watching = 0
        self._event = b""
        self._changed = asyncio.Event()
        self._ended = False

    @property
    def watching(self) -> int:
        """Number of watchers now."""
        return self._watching

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Feed"]:
        """Take samples during the body."""
        try:
            async with background(self._run()):
                yield self
        finally:
            self.end()

    def end(self) -> None:
        """Let all who watch go."""
        self._ended = True
        self._changed.set()

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """Yield everything kept, and then each second what is new, as server-sent events."""
        with self._counted():
            yield _event("history", {"fields": FIELDS, "samples": list(self._kept)})
            while True:
                await self._changed.wait()
                if self._ended:
                    return
                yield self._event

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1

    async def _run(self) -> None:
        settings = self._settings.in_partitions[0]
        async with open_redis(settings) as redis:
            figures = RedisFigures(redis, settings.names, self._rules)
            while True:
                began = time.monotonic()
                sample = self._sample(began)
                if sample is not None:
                    self._kept.append(sample)
                if self._watching:
                    self._tell(sample, await _asked(figures))
                await asyncio.sleep(max(0.0, began + EVERY - time.monotonic()))

    def _sample(self, now: float) -> Sample | None:
        status, last, seconds = self._status(), self._last, now - self._last_at
        self._last, self._last_at = status, now
        if last is None or seconds <= 0:
            return None
        new, old = status.counters, last.counters
        slow = [now - before for now, before in zip(new.latency.counts, old.latency.counts, strict=True)]
        p50, p99 = quantile(slow, 0.5), quantile(slow, 0.99)
        rates = (
            new.entries - old.entries,
            new.batches - old.batches,
            new.keys - old.keys,
            new.patterns - old.patterns,
            status.refreshed.filled - last.refreshed.filled,
        )
        return (
            round(time.time(), 1),
            *(round(rate / seconds, 1) for rate in rates),
            None if p50 is None else round(p50, 5),
            None if p99 is None else round(p99, 5),
            round(status.lag, 3) if status.lag < float("inf") else None,
            new.errors - old.errors,
        )

    def _tell(self, sample: Sample | None, figures: dict[str, Any]) -> None:
        self._event = _event("now", {"sample": sample, "worker": as_dict(self._status()), **figures})
        self._changed.set()
        if not self._ended:
            self._changed.clear()


async def _asked(figures: RedisFigures) -> dict[str, Any]:
    try:
        return {"redis": await figures.read(), "problem": ""}
    except Exception as error:  # an unexpected error must not end the feed either
        pass_on_cancellation()
        return {"redis": None, "problem": without_passwords(str(error)) or type(error).__name__}


def _event(kind: str, data: object) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"

"""Records what one agent reads, and what its cache tells it meanwhile."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from history.records import Confirmed, Heard, Opened, Read, Record, Reset, Sample, Seen
from history.writes import untrace
from unstale import Cache, Invalidated

TRACE = "trace:"


class Recorder:
    """Writes one agent's history while the agent reads.

    ``cache`` says what was processed and how stale answers may be; what is read may come from elsewhere, so
    that other caches can be judged by the same ears.

    Values are JSON objects whose ``versions`` map each row they were made of to its version, or None for a
    row that did not exist.
    """

    def __init__(self, cache: Cache, write: Callable[[Record], object]) -> None:
        self._cache, self._write = cache, write
        self._notices = 0
        self.listening = asyncio.Event()
        """Set once events are delivered."""
        self.reads = 0

    async def listen(self) -> None:
        """Record every event until the cache is closed; begin it before the first change is made."""
        async with self._cache.subscribe("*") as events:
            self._write(Opened(time.monotonic()))
            self.listening.set()
            async for event in events:
                at = time.monotonic()
                if not isinstance(event, Invalidated):
                    self._notice(Reset(at))
                    continue
                versions = tuple(untrace(key) for key in event.keys if key.startswith(TRACE))
                patterns = tuple(pattern for pattern in event.patterns if pattern.startswith(TRACE))
                if versions or patterns:
                    self._notice(Heard(at, versions, patterns))

    def confirm(self, versions: Iterable[tuple[str, int]]) -> None:
        """The cache has just promised that nothing older is served here."""
        self._notice(Confirmed(time.monotonic(), tuple(versions)))

    async def sample(self) -> None:
        """Record what the cache claims now, after every event that it has delivered by now."""
        # The clock first: whatever happens between the two lines makes the claim weaker.
        at = time.monotonic()
        staleness = self._cache.staleness
        for _ in range(4):
            await asyncio.sleep(0)  # the listener has its turn, and takes all that waits
        if math.isfinite(staleness):
            self._write(Sample(at, at - staleness))

    async def read(
        self,
        key: str,
        ask: Callable[[], Awaitable[Any]],
        *,
        rows: tuple[str, ...],
        bound: float | None = None,
    ) -> tuple[Seen, ...]:
        """Ask, and record question and answer; what ``ask`` raises passes through unrecorded.

        Args:
            rows: The rows a value of this key is made of: what the answer None says do not exist.
            bound: The ``max_staleness`` that ``ask`` passes.
        """
        notices = self._notices
        began = time.monotonic()
        staleness, attached = self._cache.staleness, self._cache.attached
        seen = seen_in(await ask(), rows)
        ended = time.monotonic()
        self.reads += 1
        self._write(
            Read(
                key, began, ended, notices, _finite(staleness), _finite(self._cache.staleness),
                attached and math.isfinite(staleness), bound, seen,
            )
        )  # fmt: skip
        return seen

    def _notice(self, record: Record) -> None:
        self._notices += 1
        self._write(record)


def seen_in(value: Any, rows: tuple[str, ...]) -> tuple[Seen, ...]:
    """Which versions a value shows; None shows that no row existed."""
    if value is None:
        return tuple((row, None) for row in rows)
    return tuple(value["versions"].items())


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None

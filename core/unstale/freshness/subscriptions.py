"""``cache.subscribe``: events that name the invalidated keys."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final

from unstale.freshness.invalidation_reasons import InvalidationReason, ReasonReader
from unstale.protocol.globs import literal_beginning, matches
from unstale.protocol.names import TAG, LogId
from unstale.protocol.tags import record

MOST_EVENTS: Final = 1_024
"""Events queued for a slow subscriber; one more replaces them all by one `Reset`."""


@dataclass(frozen=True, slots=True)
class Invalidated:
    """These keys changed, so anything derived from their values is out of date.

    Attributes:
        keys: The invalidated keys that match the subscription.
        patterns: Invalidated Redis globs that may overlap the subscription; all keys they match are out of
            date, and all values with a tag that they match.
        staleness: `Cache.staleness` when the event was created.
        tags: The invalidated tags that match the subscription; all values that have one are out of date.
        reasons: Why they were invalidated, if the subscriber asked for it and the log tells.
    """

    keys: tuple[str, ...]
    patterns: tuple[str, ...]
    staleness: float
    tags: tuple[str, ...] = ()
    reasons: tuple[InvalidationReason, ...] = ()


@dataclass(frozen=True, slots=True)
class Reset:
    """Anything may have changed: events were lost, or the subscriber was too slow. Rebuild everything.

    Attributes:
        staleness: `Cache.staleness` when the event was created.
    """

    staleness: float


Event = Invalidated | Reset


_Entry = tuple[ReasonReader, LogId]
"""The log entry of an event, and who reads it."""


class Subscription:
    """An asynchronous iterator of events that ends when the cache is closed."""

    def __init__(self, pattern: str, *, reasons: bool = False) -> None:
        self._pattern, self.reasons = pattern, reasons
        self._events: deque[tuple[Event, _Entry | None]] = deque()
        self._current: tuple[Event, _Entry | None] | None = None
        self._ready = asyncio.Event()
        self._closed = False

    def offer(self, event: Event, reader: ReasonReader | None = None) -> None:
        """Queue an event; if the queue is full, replace all queued events by one `Reset`.

        ``reader`` finds the reasons, if they are asked for.
        """
        if isinstance(event, Reset) or len(self._events) >= MOST_EVENTS:
            self._events.clear()
            event = Reset(event.staleness)
        entry = None
        if reader is not None and isinstance(event, Invalidated):
            entry = reader, reader.next_entry()
        self._events.append((event, entry))
        self._ready.set()

    def close(self) -> None:
        """End the iteration after the queued events have been delivered."""
        self._closed = True
        self._ready.set()

    def selected(self, keys: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Return the keys and the tags that match this subscription, and the patterns that may overlap it."""
        tags = (key.removeprefix(TAG) for key in keys if key.startswith(TAG))
        globs = (pattern.removeprefix(TAG) for pattern in patterns)
        return (
            tuple(key for key in keys if matches(self._pattern, key) and not key.startswith(TAG)),
            tuple(tag for tag in tags if matches(self._pattern, tag)),
            tuple(pattern for pattern in globs if may_overlap(pattern, self._pattern)),
        )

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while self._current is None and not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        event, entry = self._current = self._current or self._events.popleft()
        if entry is not None:  # if this is cancelled, the next call goes on with the same event
            event = await self._explained(event, entry)
        self._current = None
        return event

    async def _explained(self, event: Event, entry: _Entry) -> Event:
        assert isinstance(event, Invalidated)
        reader, number = entry
        keys = [*event.keys, *map(record, event.tags)]
        patterns = [*event.patterns, *map(record, event.patterns)]
        return replace(event, reasons=await reader.reasons(number, keys, patterns))

    def __repr__(self) -> str:
        return f"<Subscription {self._pattern!r}, {len(self._events)} waiting>"


class Subscriptions:
    """All subscriptions of one cache; the listener of its `LocalState`."""

    def __init__(self, staleness: Callable[[], float], reader: Callable[[], ReasonReader]) -> None:
        self._staleness, self._reader = staleness, reader
        self._subscriptions: list[Subscription] = []

    def open(self, pattern: str, *, reasons: bool = False) -> Subscription:
        """Open a subscription; events are delivered from now on, with ``reasons`` if asked."""
        subscription = Subscription(pattern, reasons=reasons)
        self.add(subscription)
        return subscription

    def add(self, subscription: Subscription) -> None:
        """Deliver events to ``subscription``, too, from now on."""
        self._subscriptions.append(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Close a subscription."""
        subscription.close()
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def dropped(self, keys: tuple[str, ...], patterns: tuple[str, ...]) -> None:
        """Queue an `Invalidated` for the subscriptions that it concerns."""
        for subscription in self._subscriptions:
            mine, tags, overlapping = subscription.selected(keys, patterns)
            if mine or tags or overlapping:
                event = Invalidated(mine, overlapping, self._staleness(), tags)
                subscription.offer(event, self._reader() if subscription.reasons else None)

    def reset(self) -> None:
        """Queue a `Reset` for every subscription."""
        for subscription in self._subscriptions:
            subscription.offer(Reset(self._staleness()))

    def close(self) -> None:
        """End every subscription."""
        for subscription in tuple(self._subscriptions):
            self.remove(subscription)


def may_overlap(one: str, other: str) -> bool:
    """Return False only if no key can match both globs: their literal beginnings differ."""
    a, b = literal_beginning(one), literal_beginning(other)
    return a.startswith(b) or b.startswith(a)

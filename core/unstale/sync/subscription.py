"""``cache.subscribe`` for threads: a blocking iterator of events."""

import asyncio
from collections.abc import Iterator

from unstale.errors import CacheClosed
from unstale.freshness.subscriptions import Event
from unstale.freshness.subscriptions import Subscription as AsyncSubscription
from unstale.sync.caller import WaitingCaller
from unstale.sync.loop_thread import CLOSED, LoopThread


class Subscription:
    """A blocking iterator of `Invalidated` and `Reset` events that ends when the cache is closed."""

    def __init__(self, loops: LoopThread, events: AsyncSubscription) -> None:
        self._loops, self._events = loops, events

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        try:
            event = self.get()
        except CacheClosed:
            if self._loops.forked:
                raise
            raise StopIteration from None
        assert event is not None  # without a timeout
        return event

    def get(self, timeout: float | None = None) -> Event | None:
        """Return the next event, or None after ``timeout`` seconds; raises `CacheClosed` at the end."""

        async def following(_caller: WaitingCaller) -> Event | None:
            try:
                async with asyncio.timeout(timeout):
                    return await anext(self._events)
            except TimeoutError:
                return None
            except StopAsyncIteration:
                raise CacheClosed(CLOSED) from None

        return self._loops.run(following)

    def __repr__(self) -> str:
        return repr(self._events)

"""Extends leases while a loader runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from unstale.errors import RedisUnavailable
from unstale.runtime.cancellation import cancelled


@asynccontextmanager
async def extended(extend: Callable[[], Awaitable[object]], *, every: float) -> AsyncIterator[None]:
    """Call ``extend`` every so many seconds while inside.

    A lease that is gone stays gone: the fill is refused then.
    """

    async def keep() -> None:
        while True:
            await asyncio.sleep(every)
            try:
                await extend()
            except RedisUnavailable:
                continue  # the next extension, or the fill, will tell

    task = asyncio.create_task(keep(), name="refresh leases")
    try:
        yield
    finally:
        await cancelled(task)

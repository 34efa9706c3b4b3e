"""Keeps leases alive while a loader runs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from unstale.errors import RedisUnavailable
from unstale.runtime.cancellation import cancelled
from unstale_worker.refresh.redis.refresh_set import RefreshQueue


@asynccontextmanager
async def kept(queue: RefreshQueue, keys: Sequence[str], lease: bytes) -> AsyncIterator[None]:
    """Prolong the leases of ``keys`` while inside. One that is gone stays gone: its fill is refused."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(queue.extend_every)
            try:
                await queue.extend(keys, lease)
            except RedisUnavailable:
                continue  # the next one, or the fill, will tell

    task = asyncio.create_task(keep(), name="refresh leases")
    try:
        yield
    finally:
        await cancelled(task)

"""What the failure cases of the agent side share: background reads, messages that get lost, defences off."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from unstale.protocol.names import Names
from unstale.redis_tier.tier import RedisTier
from workers.double import WorkerDouble

T = TypeVar("T")


class Elsewhere(Names):
    """The same keys, and a channel that nobody listens on."""

    __slots__ = ()

    @property
    def channel(self) -> str:
        """Not the channel."""
        return f"{self.tag}:elsewhere"


async def apply_unheard(worker: WorkerDouble, *keys: str, patterns: Sequence[str] = ()) -> int:
    """A batch whose message is lost on its way."""
    names, worker.names = worker.names, Elsewhere()
    try:
        return await worker.apply(*keys, patterns=patterns)
    finally:
        worker.names = names


async def fill_anyway(
    self: RedisTier, key: str, lease: bytes, value: bytes, *, seconds: float, **more: object
) -> bool:
    """In the place of `RedisTier.fill`: what a cache without leases does."""
    await self.multiplexer.execute_command("SET", key, value, "PX", round(seconds * 1000))
    return True


async def stored(worker: WorkerDouble, key: str) -> bytes | None:
    """What Redis holds."""
    found: Any = await worker.redis.get(key)
    return None if found is None else bytes(found)


@asynccontextmanager
async def background(work: Coroutine[Any, Any, T]) -> AsyncIterator["asyncio.Task[T]"]:
    """Run something beside the body; it is over when the body is."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        await asyncio.wait([task])

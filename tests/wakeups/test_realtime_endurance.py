"""A hundred disconnects in a row, and a flood: no hint lost, no task left, memory flat."""

from __future__ import annotations

import asyncio
import gc
import itertools
import tracemalloc
from collections.abc import Awaitable, Callable

from servers import eventually
from supabase_double import SupabaseDouble
from wakeups.realtime_stage import listening

DISCONNECTS = 100
WARM = 20
"""Disconnects after which caches are full; memory is compared from there on."""
MOST_GROWTH_BYTES = 256 * 1024
"""Of both sides together, over eighty disconnects; one leaked connection is about 60 kB, eighty are 5 MB."""


async def test_a_hundred_disconnects(project: SupabaseDouble) -> None:
    realtime = project.realtime

    async def reset() -> None:
        realtime.reset()

    ways: list[Callable[[], Awaitable[None]]] = [
        lambda: realtime.drop(1012),
        reset,
        lambda: realtime.drop(1000),
        realtime.expire_tokens,
        realtime.crash_channels,
        realtime.close_channels,
        realtime.subscription_error,
        realtime.disconnect,
    ]
    before = asyncio.all_tasks()
    tracemalloc.start()
    try:
        async with listening(project) as stage:
            for number, way in zip(range(1, DISCONNECTS + 1), itertools.cycle(ways), strict=False):
                stage.misses_a_change()
                await way()
                await stage.healthy(sessions=number + 1)
                await eventually(lambda: stage.seen == stage.made)
                await stage.hears_a_change()
                if number == 1:
                    tasks = await _settled(lambda: len(asyncio.all_tasks()))
                if number == WARM:
                    gc.collect()
                    memory = tracemalloc.get_traced_memory()[0]
            assert stage.wakeups.reconnects == DISCONNECTS
            assert stage.seen == stage.made == 2 * DISCONNECTS
            await eventually(lambda: len(project.realtime.sockets) == 1)
            await eventually(
                lambda: len(asyncio.all_tasks()) <= tasks, timeout=5, message="no task of a former session"
            )
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] - memory < MOST_GROWTH_BYTES
    finally:
        tracemalloc.stop()
    await eventually(lambda: not project.realtime.sockets)
    await eventually(lambda: asyncio.all_tasks() <= before, timeout=5, message="no task at all")


async def test_a_flood_of_changes_is_told_as_few_hints(project: SupabaseDouble) -> None:
    async with listening(project) as stage:
        for _ in range(5_000):
            await stage.change()
        await eventually(lambda: stage.seen == stage.made)
        assert stage.wakeups.reconnects == 0


async def _settled(count: Callable[[], int]) -> int:
    """A number that stayed the same for a while."""
    last = -1

    def same() -> bool:
        nonlocal last
        previous, last = last, count()
        return previous == last

    await eventually(same)
    return last

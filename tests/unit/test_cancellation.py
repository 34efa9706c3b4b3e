"""Cancellations that are dropped once, and ends that come all the same."""

import asyncio
from contextlib import suppress

import pytest

from unstale.runtime.cancellation import insistently


async def deaf(times: int) -> None:
    """Drops so many cancellations."""
    for _ in range(times):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    await asyncio.sleep(3600)


async def test_a_group_ends_though_its_child_drops_cancellations() -> None:
    async with asyncio.timeout(30):
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="of another child")):
            async with asyncio.TaskGroup() as group:
                group.create_task(insistently(deaf(2)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                raise ValueError("of another child")


async def test_results_and_errors_come_out() -> None:
    async def fails() -> None:
        raise KeyError("k")

    assert await insistently(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(KeyError):
        await insistently(fails())

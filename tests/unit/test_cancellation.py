"""Cancellation: tasks end even if a library drops a cancellation."""

import asyncio
from contextlib import suppress
from functools import partial

import pytest

from unstale.runtime.cancellation import run_cancellable


async def drop_cancellations(times: int) -> None:
    """Drop ``times`` cancellations."""
    for _ in range(times):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    await asyncio.sleep(3600)


async def test_a_group_ends_though_its_child_drops_cancellations() -> None:
    async with asyncio.timeout(30):
        with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="of another child")):
            async with asyncio.TaskGroup() as group:
                group.create_task(run_cancellable(partial(drop_cancellations, 2)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                raise ValueError("of another child")


async def test_a_child_that_is_cancelled_before_it_begins_leaves_no_coroutine_unawaited() -> None:
    """A coroutine that is never awaited gives a RuntimeWarning, which is an error in these tests."""
    group = asyncio.TaskGroup()
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="at once")):
        async with group:
            group.create_task(run_cancellable(partial(drop_cancellations, 0)))
            raise ValueError("at once")


async def test_results_and_errors_come_out() -> None:
    async def works() -> str:
        return "done"

    async def fails() -> str:
        raise KeyError("k")

    assert await run_cancellable(works) == "done"
    with pytest.raises(KeyError):
        await run_cancellable(fails)

"""Cancellation: tasks end even if a library drops a cancellation."""

import asyncio
import gc
from contextlib import suppress
from functools import partial

import pytest

from unstale.runtime.cancellation import cancelled, run_cancellable


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


async def test_an_error_that_comes_with_a_cancellation_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """asyncio logs "Task exception was never retrieved" when such a task is collected."""

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise KeyError("lost") from None

    async def fails_at_once() -> None:
        raise KeyError("lost")

    for work in (fails_when_cancelled, fails_at_once):
        outer = asyncio.create_task(run_cancellable(work))
        await asyncio.sleep(0)
        outer.cancel()
        await asyncio.wait([outer])
        single = asyncio.create_task(work())
        await asyncio.sleep(0)
        await cancelled(single)
        del outer, single
        gc.collect()
    assert not [record.message for record in caplog.records if "never retrieved" in record.message]

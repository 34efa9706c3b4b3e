"""A time limit for each step of a task: it ends steps that take too long, and nothing else."""

import asyncio

import pytest

from unstale.runtime.step_timeout import StepTimeout

LONG = 3600.0
SHORT = 0.02


async def sleep_in_a_step(seconds: float, limit: StepTimeout) -> None:
    with limit:
        limit.begin()
        await asyncio.sleep(seconds)


async def test_a_step_that_takes_too_long_ends() -> None:
    limit = StepTimeout(SHORT)
    with pytest.raises(TimeoutError):
        await sleep_in_a_step(LONG, limit)
    await asyncio.sleep(0)  # the task is not cancelled any more
    assert limit.expired


async def test_no_limit_applies_between_steps() -> None:
    with StepTimeout(SHORT) as limit:
        limit.begin()
        limit.end()
        await asyncio.sleep(SHORT * 3)
    assert not limit.expired


async def test_a_step_after_a_long_rest_has_a_limit_too() -> None:
    async def steps() -> None:
        with StepTimeout(SHORT) as limit:
            limit.begin()
            limit.end()
            await asyncio.sleep(SHORT * 3)  # the timer fires, and is not set again
            limit.begin()
            await asyncio.sleep(LONG)

    with pytest.raises(TimeoutError):
        await steps()


async def test_a_step_that_begins_under_an_older_timer_has_the_whole_time() -> None:
    """The timer fires while the second step runs, and leaves it the rest of its own time."""
    loop = asyncio.get_running_loop()
    with StepTimeout(0.4) as limit:
        limit.begin()
        limit.end()
        await asyncio.sleep(0.3)
        limit.begin()
        await asyncio.sleep(0.15)  # past the first step's limit, not past its own
        limit.end()
        begun = loop.time()
        limit.begin()
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            assert loop.time() - begun >= 0.39
            asyncio.current_task().uncancel()  # type: ignore[union-attr]  # this test is a task


async def test_a_cancellation_stays_one() -> None:
    task = asyncio.create_task(sleep_in_a_step(LONG, StepTimeout(LONG)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_expiry_does_not_hide_a_cancellation() -> None:
    async def steps() -> None:
        with StepTimeout(SHORT) as limit:
            limit.begin()
            try:
                await asyncio.sleep(LONG)
            finally:
                task.cancel()  # by somebody else, in the same moment

    task = asyncio.create_task(steps())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_steps_belong_to_a_task() -> None:
    said: list[BaseException] = []

    def outside() -> None:
        try:
            StepTimeout(1.0).__enter__()
        except RuntimeError as error:
            said.append(error)

    asyncio.get_running_loop().call_soon(outside)
    await asyncio.sleep(0)
    assert "no task is running" in str(said[0])

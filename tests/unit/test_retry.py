"""Retries: when they end, what is reported, and what a failed attempt leaves for the next."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import structlog

from unstale.errors import DatabaseUnavailable, LeadershipLost, PositionMoved
from unstale_worker.runtime import retry as module
from unstale_worker.runtime.retry import retry


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.001)


def raising(*errors: Exception, then: str = "done") -> Callable[[], Coroutine[Any, Any, str]]:
    """Return an operation that raises each of ``errors`` once."""
    left = list(errors)

    async def operation() -> str:
        if left:
            raise left.pop(0)
        return then

    return operation


async def test_it_retries_until_it_succeeds_and_reports_each_error() -> None:
    failed: list[Exception] = []
    errors = [DatabaseUnavailable("away"), ValueError("odd")]
    assert await retry(raising(*errors), failed=failed.append) == "done"
    assert failed == errors


async def test_the_same_error_is_logged_once() -> None:
    with structlog.testing.capture_logs() as logs:
        await retry(raising(*(DatabaseUnavailable("away") for _ in range(3))), failed=lambda _: None)
    assert [(line["event"], line["error"]) for line in logs] == [("trying again", "away")]


async def test_a_moved_position_is_no_error() -> None:
    failed: list[Exception] = []
    assert await retry(raising(PositionMoved("epoch")), failed=failed.append) == "done"
    assert failed == []


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_fatal_error_is_raised(grouped: bool) -> None:
    lost: Exception = LeadershipLost("gone")
    error = ExceptionGroup("tasks", [DatabaseUnavailable("away"), lost]) if grouped else lost
    with pytest.raises(LeadershipLost):
        await retry(raising(error), failed=lambda _: None, fatal=(LeadershipLost,))


async def test_the_errors_of_a_group_are_reported_one_by_one() -> None:
    failed: list[Exception] = []
    single = [DatabaseUnavailable("away"), KeyError("k")]
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [single[0]]), single[1]])
    await retry(raising(nested), failed=failed.append)
    assert failed == single


async def test_it_ends_when_it_is_told_to_stop() -> None:
    stop = asyncio.Event()
    attempts = 0

    async def operation() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            stop.set()
        raise DatabaseUnavailable("away")

    await retry(operation, failed=lambda _: None, stop=stop)
    assert attempts == 2


async def test_an_attempt_that_cancels_itself_is_retried() -> None:
    failed: list[Exception] = []
    attempts = 0

    async def operation() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise asyncio.CancelledError
        return "done"

    assert await retry(operation, failed=failed.append) == "done"
    assert [str(error) for error in failed] == ["the attempt was cancelled from inside"]


async def test_a_cancelled_caller_waits_for_the_attempt_to_end() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def operation() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.set()

    task = asyncio.create_task(retry(operation, failed=lambda _: None))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()

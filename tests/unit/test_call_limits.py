"""How often a model may call the tools of one user."""

import asyncio

import pytest

from unstale.companion.tools import call_limits
from unstale.companion.tools.call_limits import CHANGING, LOOKING, SCANNING, CallLimits, limits_of
from unstale.errors import ToolError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_too_much_is_said_with_the_time_to_wait() -> None:
    clock = Clock()
    limits = CallLimits(clock=clock)
    for second in range(SCANNING.most):
        clock.now = float(second)
        limits.take("user:1:", SCANNING, tool="clearUserCache")
    with pytest.raises(ToolError, match=r"invalidateCache was not called: only 5 .* again in 56 seconds"):
        limits.take("user:1:", SCANNING, tool="invalidateCache")
    limits.take("user:1:", CHANGING, tool="refreshCache")
    limits.take("user:1:", LOOKING, tool="getInvalidationStats")
    limits.take("user:2:", SCANNING, tool="invalidateCache")  # another user
    clock.now = 60.0
    limits.take("user:1:", SCANNING, tool="invalidateCache")
    with pytest.raises(ToolError, match="again in 1 seconds"):
        limits.take("user:1:", SCANNING, tool="invalidateCache")


def test_what_is_refused_does_not_prolong_the_wait() -> None:
    clock = Clock()
    limits = CallLimits(clock=clock)
    for second in range(120):
        clock.now = second / 2
        if second < SCANNING.most:
            limits.take("u", SCANNING, tool="t")
        else:
            with pytest.raises(ToolError):
                limits.take("u", SCANNING, tool="t")
    clock.now = 60.0
    limits.take("u", SCANNING, tool="t")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_limits, "USERS_MOST", 100)
    limits = CallLimits()
    for user in range(1_000):
        limits.take(str(user), LOOKING, tool="t")
    assert repr(limits) == "<CallLimits users=100>"


async def test_tools_of_one_cache_share_them() -> None:
    cache, other = asyncio.Event(), asyncio.Event()
    assert limits_of(cache) is limits_of(cache)
    assert limits_of(cache) is not limits_of(other)

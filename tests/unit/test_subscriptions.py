"""Subscriptions: which events each one gets, and what happens to a slow listener."""

import asyncio
from collections.abc import Callable, Iterable

import pytest

from unstale.freshness.invalidation_reasons import InvalidationReason, ReasonReader
from unstale.freshness.subscriptions import MOST_EVENTS, Invalidated, Reset, Subscriptions, may_overlap
from unstale.protocol.names import LogId


def never_asked() -> ReasonReader:
    raise AssertionError("no subscription asked for reasons")


def events(reader: Callable[[], ReasonReader] = never_asked) -> Subscriptions:
    return Subscriptions(lambda: 0.5, reader)


async def test_a_subscription_hears_of_its_own_keys_only() -> None:
    source = events()
    mine, other = source.open("user:42:*"), source.open("org:*")
    source.dropped(("user:42:profile", "user:7:profile"), ())
    assert await anext(mine) == Invalidated(("user:42:profile",), (), 0.5)
    source.remove(other)
    with pytest.raises(StopAsyncIteration):
        await anext(other)


async def test_patterns_are_passed_on_if_they_may_concern_it() -> None:
    source = events()
    mine = source.open("user:42:*")
    source.dropped((), ("org:*", "user:*:profile"))
    assert await anext(mine) == Invalidated((), ("user:*:profile",), 0.5)


async def test_a_slow_listener_gets_one_reset_instead_of_too_much() -> None:
    source = events()
    mine = source.open("*")
    for number in range(MOST_EVENTS + 1):
        source.dropped((f"k{number}",), ())
    source.dropped(("last",), ())
    assert await anext(mine) == Reset(0.5)
    assert await anext(mine) == Invalidated(("last",), (), 0.5)


class Slow(ReasonReader):
    """Answers the second question about an entry only."""

    def __init__(self) -> None:
        self.asked: list[LogId] = []

    def next_entry(self) -> LogId:
        return LogId(7)

    async def reasons(
        self, entry: LogId, keys: Iterable[str], patterns: Iterable[str] = ()
    ) -> tuple[InvalidationReason, ...]:
        self.asked.append(entry)
        if len(self.asked) == 1:
            await asyncio.Event().wait()
        return (InvalidationReason("changes", 1.0, tuple(keys)),)


async def test_who_is_cancelled_while_asking_for_reasons_loses_no_event() -> None:
    reader = Slow()
    source = events(lambda: reader)
    mine = source.open("user:*", reasons=True)
    source.dropped(("user:1", "org:1"), ())
    waiting = asyncio.ensure_future(anext(mine))
    await asyncio.sleep(0)
    assert reader.asked == [7]
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    source.reset()
    reasons = (InvalidationReason("changes", 1.0, ("user:1",)),)
    assert await anext(mine) == Invalidated(("user:1",), (), 0.5, (), reasons)
    assert await anext(mine) == Reset(0.5)
    assert reader.asked == [7, 7]


async def test_a_flush_resets_everybody_and_replaces_what_waits() -> None:
    source = events()
    mine = source.open("user:*")
    source.dropped(("user:1",), ())
    source.reset()
    assert await anext(mine) == Reset(0.5)


async def test_closing_ends_the_iteration_of_one_who_waits() -> None:
    source = events()
    mine = source.open("*")
    heard: list[object] = []

    async def listen() -> None:
        async for event in mine:
            heard.append(event)

    task = asyncio.create_task(listen())
    await asyncio.sleep(0)
    source.close()
    await task
    assert heard == []


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("user:*", "user:42:*", True),
        ("user:*", "org:*", False),
        ("*", "org:*", True),
        (r"a\*b", "a*", True),
        (r"a\*b", "ab*", False),
        ("user:[12]:x", "user:3", True),
    ],
)
def test_overlap_errs_on_the_side_of_telling(one: str, other: str, expected: bool) -> None:
    assert may_overlap(one, other) is may_overlap(other, one) is expected

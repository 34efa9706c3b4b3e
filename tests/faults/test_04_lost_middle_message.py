"""4: a message in the middle is lost; the next one shows it, and the log tells what it said.

Guards: ``prev`` in `Subscriber._invalidate` and the replay of `replay.lua`.
"""

import pytest

from faults.played import apply_unheard
from unstale import Cache
from unstale.freshness.subscriber import Subscriber
from workers.double import Loader, WorkerDouble

BEFORE, LOST, AFTER, UNTOUCHED = (f"user:{n}:profile" for n in range(4))


@pytest.mark.parametrize("defended", [True, False])
async def test_the_log_tells_what_the_lost_message_said(
    follower: Cache, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    loader = Loader("old")
    for key in (BEFORE, LOST, AFTER, UNTOUCHED):
        assert await follower.get_or_load(key, loader) == "old"
    if not defended:

        async def no_replay(_: Subscriber) -> bool:
            return True

        monkeypatch.setattr(Subscriber, "_replay", no_replay)
    loader.value = "new"
    async with follower.subscribe(AFTER) as events:
        await silent.apply(BEFORE)
        await apply_unheard(silent, LOST)
        await silent.apply(AFTER)
        await anext(events)
    assert await follower.get_or_load(BEFORE, loader) == "new"
    assert await follower.get_or_load(AFTER, loader) == "new"
    assert await follower.get_or_load(LOST, loader) == ("new" if defended else "old")
    hits = follower.counters().near_hits
    assert await follower.get_or_load(UNTOUCHED, loader) == "old"
    assert follower.counters().near_hits == hits + 1  # a replay drops what it names, and nothing more


async def test_a_lost_pattern_is_replayed_too(follower: Cache, silent: WorkerDouble) -> None:
    loader = Loader("old")
    assert await follower.get_or_load(LOST, loader) == "old"
    loader.value = "new"
    await silent.redis.delete(LOST)
    async with follower.subscribe(AFTER) as events:
        await apply_unheard(silent, patterns=["user:*:profile"])
        await silent.apply(AFTER)
        await anext(events)
    assert await follower.get_or_load(LOST, loader) == "new"

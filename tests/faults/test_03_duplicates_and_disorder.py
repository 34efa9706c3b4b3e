"""3: messages that come twice or in another order.

Guards: ``prev`` in `Subscriber._invalidate` (anything but the successor of what was seen means replay),
and that a message only ever removes.
"""

from functools import partial

import pytest

from faults.played import apply_unheard
from servers import eventually
from unstale import Cache
from unstale.freshness.subscriber import Subscriber
from unstale.protocol.names import Epoch, LogId
from workers.double import Loader, WorkerDouble

FIRST, SECOND = "user:1:profile", "user:2:profile"


def message(worker: WorkerDouble, number: int, *keys: str) -> dict[str, object]:
    """The message of log entry ``number``, as the script publishes it."""
    return {"v": 1, "epoch": worker.epoch, "id": number, "prev": number - 1, "keys": keys, "patterns": []}


@pytest.mark.parametrize("defended", [True, False])
async def test_a_later_message_that_comes_first_is_no_reason_to_trust_the_earlier_key(
    follower: Cache, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    loader = Loader("old")
    for key in (FIRST, SECOND):
        assert await follower.get_or_load(key, loader) == "old"
    if not defended:

        async def no_replay(_: Subscriber) -> bool:
            return True

        monkeypatch.setattr(Subscriber, "_replay", no_replay)
    loader.value = "new"
    first = await apply_unheard(silent, FIRST)
    second = await apply_unheard(silent, SECOND)
    async with follower.subscribe(SECOND) as events:
        await silent.publish(message(silent, second, SECOND))
        await anext(events)
    # At this moment the first message is still on its way.
    await eventually(lambda: follower.inspect().freshness.last == second)
    assert await follower.get_or_load(FIRST, loader) == ("new" if defended else "old")
    assert await follower.get_or_load(SECOND, loader) == "new"
    async with follower.subscribe(FIRST) as events:
        await silent.publish(message(silent, first, FIRST))
        await anext(events)
    assert await follower.get_or_load(FIRST, loader) == "new"


async def test_a_repeated_message_costs_misses_and_nothing_else(
    follower: Cache, silent: WorkerDouble
) -> None:
    loader = Loader("old")
    first = await silent.apply(FIRST)
    second = await silent.apply(SECOND)
    for key in (FIRST, SECOND):
        assert await follower.get_or_load(key, loader) == "old"
    for number, key in ((first, FIRST), (first, FIRST), (second, SECOND), (first, FIRST)):
        async with follower.subscribe(key) as events:
            await silent.publish(message(silent, number, key))
            await anext(events)
    loader.value = "new"
    third = await silent.apply(FIRST, SECOND)
    await eventually(lambda: follower.inspect().freshness.last == third)
    for key in (FIRST, SECOND):
        assert await follower.get_or_load(key, loader) == "new"
    assert follower.attached


async def test_forged_ids_and_epochs_end_in_the_truth(follower: Cache, silent: WorkerDouble) -> None:
    """An id far ahead, one far behind, a random epoch: the agent hears the next real message all the same."""
    loader = Loader("old")
    for number, epoch in ((10**12, silent.epoch), (1, silent.epoch), (7, "f" * 32)):
        assert await follower.get_or_load(FIRST, loader) == loader.value
        replays = follower.counters().replays
        await silent.publish(message(silent, number, "x") | {"epoch": epoch})
        await eventually(partial(has_replayed, follower, replays))
        loader.value = f"after {number}"
        last = await silent.apply(FIRST)
        await silent.watermark()
        await eventually(partial(follows, follower, Epoch(silent.epoch), LogId(last)))
        assert await follower.get_or_load(FIRST, loader) == f"after {number}"
        async with silent.beating():
            await eventually(lambda: follower.attached)


def has_replayed(cache: Cache, before: int) -> bool:
    return cache.counters().replays > before


def follows(cache: Cache, epoch: Epoch, last: LogId) -> bool:
    return (cache.inspect().freshness.epoch, cache.inspect().freshness.last) == (epoch, last)

"""28: a rolling deploy: workers of two releases, whose messages differ, while agents are of the older one.

Guards: `messages.decode` ignores unknown fields; an unknown ``v`` mutes (`Freshness.muted`): the near
cache is dropped and not trusted, it is said once, and nothing is taken for heard.
"""

import logging

import pytest

from faults.played import Elsewhere, stored
from servers import eventually
from unstale import Cache
from unstale.freshness.trust import Freshness
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY, OTHER = "user:42:profile", "user:43:profile"


async def newer_release_applies(worker: WorkerDouble, *keys: str) -> None:
    """The effects of a batch, and a message that this release cannot read."""
    names, worker.names = worker.names, Elsewhere()
    number = await worker.apply(*keys)
    worker.names = names
    await worker.publish({"v": 2, "epoch": worker.epoch, "sequence": number, "gone": list(keys)})


@pytest.mark.parametrize("defended", [True, False])
async def test_a_newer_message_is_not_taken_for_nothing(
    follower: Cache, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    if not defended:
        monkeypatch.setattr(Freshness, "muted", lambda self: None)
    loader = Loader("old")
    assert await follower.get_or_load(KEY, loader) == "old"
    loader.value = "new"
    await newer_release_applies(silent, KEY)
    if defended:
        await eventually(lambda: not follower.attached)
    assert await follower.get_or_load(KEY, loader) == ("new" if defended else "old")


async def test_it_is_said_once_and_ends_when_the_older_release_leads_again(
    silent: WorkerDouble, valkey: EmbeddedValkey, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    loader = Loader("old")
    caplog.set_level(logging.WARNING, "unstale")
    async with silent.beating(), attached_cache(valkey.url, max_silence=3.0, leader_ttl=0.5) as cache:
        assert await cache.get_or_load(KEY, loader) == "old"
        loader.value = "new"
        for _ in range(3):
            await newer_release_applies(silent, KEY)
        await eventually(lambda: not cache.attached)
        assert cache.staleness == float("inf")
        assert await cache.get_or_load(KEY, loader) == "new"
        await eventually(lambda: cache.attached)  # only messages of this release since
        assert await cache.get_or_load(KEY, loader) == "new"
        told = [record for record in caplog.records if "version 2" in record.getMessage()]
        assert len(told) == 1
        assert "upgrade this agent" in told[0].getMessage()


async def test_unknown_fields_of_the_same_version_are_ignored(follower: Cache, silent: WorkerDouble) -> None:
    loader = Loader("old")
    for key in (KEY, OTHER):
        assert await follower.get_or_load(key, loader) == "old"
    loader.value = "new"
    names, silent.names = silent.names, Elsewhere()
    number = await silent.apply(KEY)
    silent.names = names
    await silent.redis.hset(names.state, mapping={"field-of-tomorrow": "x"})
    async with follower.subscribe(KEY) as events:
        await silent.publish(
            {
                "v": 1, "epoch": silent.epoch, "id": number, "prev": number - 1, "keys": [KEY],
                "patterns": [], "since": "tomorrow", "trace": {"deep": [1, 2]},
            }
        )  # fmt: skip
        await anext(events)
    assert follower.attached
    assert await follower.get_or_load(KEY, loader) == "new"
    assert await follower.get_or_load(OTHER, loader) == "old"
    assert await stored(silent, KEY) == b'"new"'

"""5: the last message is lost, and then nothing changes for long.

Guards: a watermark whose ``last`` is not what was seen is a gap (`Subscriber._watermark`); without any
watermark for ``max_silence`` the near cache is not trusted (`Freshness.heard`, ``trusted_until``).
"""

import math
from contextlib import AsyncExitStack

import pytest

from faults.played import apply_unheard
from servers import eventually
from unstale import Cache
from unstale.freshness.subscriber import Subscriber
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY = "user:42:profile"


@pytest.mark.parametrize("defended", [True, False])
async def test_the_next_watermark_shows_the_gap(
    follower: Cache, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    loader = Loader("old")
    assert await follower.get_or_load(KEY, loader) == "old"
    if not defended:

        async def no_replay(_: Subscriber) -> bool:
            return True

        monkeypatch.setattr(Subscriber, "_replay", no_replay)
    loader.value = "new"
    last = await apply_unheard(silent, KEY)
    assert follower.inspect().freshness.last != last
    async with silent.beating():
        if defended:
            await eventually(lambda: follower.inspect().freshness.last == last)
            assert await follower.get_or_load(KEY, loader) == "new"
        else:
            await silent.watermark()
            assert await follower.get_or_load(KEY, loader) == "old"


@pytest.mark.parametrize("defended", [True, False])
async def test_silence_detaches(
    silent: WorkerDouble, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, quick: None, defended: bool
) -> None:
    loader = Loader("old")
    async with AsyncExitStack() as stack:
        async with silent.beating():
            cache = await stack.enter_async_context(
                attached_cache(valkey.url, max_silence=3.0, leader_ttl=0.5)
            )
            assert await cache.get_or_load(KEY, loader) == "old"
        assert cache.staleness < 3.0
        if not defended:
            cache.inspect().freshness.trusted_until = math.inf
        loader.value = "new"
        await apply_unheard(silent, KEY)
        if defended:
            await eventually(lambda: not cache.attached)
            assert cache.staleness == math.inf
        assert await cache.get_or_load(KEY, loader) == ("new" if defended else "old")

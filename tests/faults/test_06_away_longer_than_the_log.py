"""6: an agent is away for longer than the log reaches back.

Guards: ``complete`` of `replay.lua` and `Subscriber._replay`: a log with a hole in front drops the near
cache. An agent that was away for less keeps what nobody changed.
"""

import asyncio
from dataclasses import replace

import pytest

from servers import eventually
from servers.proxy import Proxy
from unstale import Cache
from unstale.protocol.names import LogId
from unstale.redis_tier.log_reader import MOST_ENTRIES, LogReader, Replay
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

CHANGED, UNTOUCHED = "user:1:profile", "user:2:profile"


async def away(cache: Cache, proxy: Proxy) -> None:
    """Cut the agent off, so that it hears nothing and cannot come back."""
    await proxy.refuse()
    proxy.cut()
    await eventually(lambda: not cache.attached)


@pytest.mark.parametrize("defended", [True, False])
@pytest.mark.parametrize("how", ["trimmed", "too many"])
async def test_a_log_that_does_not_reach_back_drops_everything(
    silent: WorkerDouble, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, how: str, defended: bool
) -> None:
    replay = LogReader.replay

    async def pretends(self: LogReader, after: LogId) -> Replay:
        return replace(await replay(self, after), complete=True)

    loader = Loader("old")
    async with (
        Proxy(valkey.port) as proxy,
        silent.beating(),
        attached_cache(proxy.url(valkey.url)) as cache,
    ):
        assert await cache.get_or_load(CHANGED, loader) == "old"
        await away(cache, proxy)
        if not defended:
            monkeypatch.setattr(LogReader, "replay", pretends)
        if how == "trimmed":
            monkeypatch.setattr("workers.double.LOG_BYTES", 1_000)
        await silent.apply(CHANGED)
        for _ in range(20 if how == "trimmed" else MOST_ENTRIES + 1):
            await silent.apply("user:3:profile")
        loader.value = "new"
        await proxy.heal()
        await eventually(lambda: cache.attached)
        assert await cache.get_or_load(CHANGED, loader) == ("new" if defended else "old")


async def test_a_log_that_reaches_back_drops_what_changed(
    silent: WorkerDouble, valkey: EmbeddedValkey
) -> None:
    """A report of the agent that fails meanwhile does not make the replay fail and skip its entries."""
    loader = Loader("old")
    async with (
        Proxy(valkey.port) as proxy,
        silent.beating(),
        attached_cache(proxy.url(valkey.url), report_interval=0.01) as cache,
    ):
        for key in (CHANGED, UNTOUCHED):
            assert await cache.get_or_load(key, loader) == "old"
        await away(cache, proxy)
        loader.value = "new"
        await silent.apply(CHANGED)
        await asyncio.sleep(0.1)  # reports are due
        await proxy.heal()
        await eventually(lambda: cache.attached)
        assert await cache.get_or_load(CHANGED, loader) == "new"
        hits = cache.counters().near_hits
        assert await cache.get_or_load(UNTOUCHED, loader) == "old"
        assert cache.counters().near_hits == hits + 1


async def test_an_evicted_log_drops_everything(silent: WorkerDouble, valkey: EmbeddedValkey) -> None:
    """Redis may evict the log itself under ``allkeys-*``: an empty log is no proof that nothing happened."""
    loader = Loader("old")
    async with (
        Proxy(valkey.port) as proxy,
        silent.beating(),
        attached_cache(proxy.url(valkey.url)) as cache,
    ):
        assert await cache.get_or_load(CHANGED, loader) == "old"
        await away(cache, proxy)
        await silent.apply(CHANGED)
        await silent.redis.delete(silent.names.log)
        loader.value = "new"
        await proxy.heal()
        await eventually(lambda: cache.attached)
        assert await cache.get_or_load(CHANGED, loader) == "new"

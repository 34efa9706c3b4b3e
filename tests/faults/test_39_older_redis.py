"""39: an agent that lost its connection meets a Redis with older data, and no worker tells it so.

Guards: after a lost connection nothing of Redis is believed (`Freshness.doubted`) until a replay finds the
epoch that was followed, a log no shorter than what was seen, and the run that the epoch belongs to
(`Freshness.recognized`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from faults.older import Older
from servers import eventually
from unstale import Cache
from unstale.freshness.trust import Freshness, Trust
from unstale.protocol.lease import ValueOrLease
from unstale.redis_tier.log_reader import _REPLAY
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache, redis_client

KEY = "user:42:profile"


@dataclass
class Scene:
    """An agent that has processed an invalidation of KEY; `older` is from before that."""

    server: EmbeddedValkey
    older: Older
    worker: WorkerDouble
    cache: Cache
    loader: Loader

    async def restart(self, *, older: bool) -> None:
        """Redis comes back; returns when the agent has looked at its log."""
        replays = self.cache.counters().replays
        await self.server.kill()
        if older:
            self.older.put_back()
        await self.server.start()
        await self.worker.redis.connection_pool.disconnect()
        assert await self.worker.redis.get(KEY) == (b'"old"' if older else b'"new"')
        pings = self.cache.inspect().freshness._ping_number
        await eventually(
            lambda: (
                self.cache.counters().replays > replays
                and self.cache.inspect().freshness._ping_number > pings
            ),
            message="the agent follows again",
        )


@asynccontextmanager
async def processed(durable: EmbeddedValkey) -> AsyncIterator[Scene]:
    """The worker is away by the time the test begins."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_client(durable.url))
        worker = WorkerDouble(redis)
        await worker.recover()
        loader = Loader("old")
        async with worker.beating():
            cache = await stack.enter_async_context(attached_cache(durable.url))
            assert await cache.get_or_load(KEY, loader) == "old"
            older = Older(durable)
            loader.value = "new"
            async with cache.subscribe(KEY) as events:
                await worker.apply(KEY)
                await anext(events)
            assert await cache.get_or_load(KEY, loader) == "new"
        yield Scene(durable, older, worker, cache, loader)


@pytest.mark.parametrize("defended", [True, False])
async def test_values_of_a_redis_that_went_back_are_not_believed(
    durable: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    async with processed(durable) as scene:
        if not defended:
            monkeypatch.setattr(Freshness, "doubted", Freshness.detached)
        await scene.restart(older=True)
        assert scene.cache.inspect().freshness.trust is (
            Trust.DETACHED if defended else Trust.BRIEFLY_DETACHED
        )
        assert await scene.cache.get_or_load(KEY, scene.loader) == ("new" if defended else "old")
        if not defended:
            assert await scene.cache.get(KEY) == "old"
            return
        assert await scene.cache.get(KEY) == "new"  # its own load, kept while on its own
        # The worker comes back and begins a new epoch. That proves nothing: what was lost is still lost.
        freshness = scene.cache.inspect().freshness
        replays, pings = scene.cache.counters().replays, freshness._ping_number
        await scene.worker.new_epoch()
        await eventually(
            lambda: scene.cache.counters().replays >= replays + 2 and freshness._ping_number > pings,
            message="the agent follows the new epoch",
        )
        assert freshness.trust is Trust.DETACHED
        assert await scene.cache.get_or_load(KEY, scene.loader) == "new"
        # The worker applies it again.
        await scene.worker.apply(KEY)
        async with scene.worker.beating():
            await eventually(lambda: scene.cache.attached)
            assert await scene.cache.get_or_load(KEY, scene.loader) == "new"
            assert await scene.worker.redis.get(KEY) == b'"new"'


@pytest.mark.parametrize("defended", [True, False])
async def test_a_restarted_redis_is_believed_from_its_new_epoch_on(
    durable: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """What it lost, if anything, cannot be seen in a log that is as long as it was: the run tells."""
    async with processed(durable) as scene:
        if not defended:
            undefended = _REPLAY.text.replace(" and 1 or 0\nlocal read_at", " or 1\nlocal read_at")
            assert undefended != _REPLAY.text
            monkeypatch.setattr(_REPLAY, "text", undefended)
            await scene.worker.grow_old()
        await scene.restart(older=False)
        assert scene.cache.inspect().freshness.trust is (
            Trust.DETACHED if defended else Trust.BRIEFLY_DETACHED
        )
        await scene.worker.new_epoch()
        async with scene.worker.beating():
            await eventually(lambda: scene.cache.attached)


async def test_a_lost_subscription_alone_costs_a_moment(durable: EmbeddedValkey) -> None:
    async with processed(durable) as scene:
        await scene.worker.cut_off()
        await eventually(lambda: scene.cache.inspect().freshness.trust is Trust.BRIEFLY_DETACHED)
        calls = scene.loader.calls
        assert await scene.cache.get_or_load(KEY, scene.loader) == "new"
        assert scene.loader.calls == calls


@pytest.mark.parametrize("read", ["get_or_load", "get"])
async def test_an_answer_that_comes_after_the_connection_was_lost_is_not_believed(
    durable: EmbeddedValkey, read: str
) -> None:
    """The commands have a connection of their own, which may already lead elsewhere."""
    async with processed(durable) as scene:
        cache, tier = scene.cache, scene.cache.inspect().tier
        real = tier.acquire

        async def lose(asked: "asyncio.Future[ValueOrLease]") -> ValueOrLease:
            found = await asked
            cache.inspect().freshness.lost()
            return found

        def late(key: str, **options: Any) -> "asyncio.Future[ValueOrLease]":
            return asyncio.ensure_future(lose(real(key, **options)))

        cache.inspect().local.flush()
        tier.acquire = late  # type: ignore[method-assign]  # the only way between two steps
        scene.loader.value = "newer"
        if read == "get":
            assert await cache.get(KEY) is None
        else:
            assert await cache.get_or_load(KEY, scene.loader) == "newer"

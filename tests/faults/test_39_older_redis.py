"""39: an agent that lost its connection meets a Redis with older data, and no worker tells it so.

Guards: after a lost connection nothing of Redis is believed (`Follower.doubt`) until a replay finds the epoch
that was followed, a log no shorter than what was seen, and the run that the epoch belongs to
(`Follower.recognize`).
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from faults.older import Older
from servers import eventually
from unstale import Cache
from unstale.freshness.tracker import Follower, Trust
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
        pings = self.cache._follower._ping_number
        await eventually(
            lambda: self.cache.counters().replays > replays and self.cache._follower._ping_number > pings,
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
            monkeypatch.setattr(Follower, "doubt", Follower.detach)
        await scene.restart(older=True)
        assert scene.cache._follower.trust is (Trust.DETACHED if defended else Trust.BRIEFLY_DETACHED)
        assert await scene.cache.get_or_load(KEY, scene.loader) == ("new" if defended else "old")
        if not defended:
            assert await scene.cache.get(KEY) == "old"
            return
        assert await scene.cache.get(KEY) == "new"  # its own load, kept while on its own
        # The worker comes back, begins a new epoch, and applies again what was lost.
        await scene.worker.new_epoch()
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
            subscriber = scene.cache._parts.subscriber
            assert subscriber is not None
            script = subscriber._tier._replay
            monkeypatch.setattr(script, "text", script.text.replace(" and 1 or 0\nif last", " or 1\nif last"))
        await scene.restart(older=False)
        assert scene.cache._follower.trust is (Trust.DETACHED if defended else Trust.BRIEFLY_DETACHED)
        await scene.worker.new_epoch()
        async with scene.worker.beating():
            await eventually(lambda: scene.cache.attached)


async def test_a_lost_subscription_alone_costs_a_moment(durable: EmbeddedValkey) -> None:
    async with processed(durable) as scene:
        await scene.worker.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: scene.cache._follower.trust is Trust.BRIEFLY_DETACHED)
        calls = scene.loader.calls
        assert await scene.cache.get_or_load(KEY, scene.loader) == "new"
        assert scene.loader.calls == calls


@pytest.mark.parametrize("read", ["get_or_load", "get"])
async def test_an_answer_that_comes_after_the_connection_was_lost_is_not_believed(
    durable: EmbeddedValkey, read: str
) -> None:
    """The commands have a connection of their own, which may already lead elsewhere."""
    async with processed(durable) as scene:
        cache, tier = scene.cache, scene.cache._tier
        assert tier is not None
        real = tier.read

        async def late(key: str) -> bytes | None:
            data = await real(key)
            cache._follower.connection_lost()
            return data

        cache._near.flush()
        tier.read = late  # type: ignore[assignment, method-assign]  # the only way between two steps
        scene.loader.value = "newer"
        if read == "get":
            assert await cache.get(KEY) is None
        else:
            assert await cache.get_or_load(KEY, scene.loader) == "newer"

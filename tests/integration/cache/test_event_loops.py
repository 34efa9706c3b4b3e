"""One cache, several event loops and threads, one after the other."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from servers import eventually
from unstale import Cache, Invalidated
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, redis_client

KEY = "user:42:profile"

Use = Callable[[Cache], Awaitable[Any]]


async def led(url: str, use: Callable[[], Awaitable[Any]]) -> Any:
    """Play a worker while ``use`` runs, so that the cache is attached."""
    async with redis_client(url) as redis:
        worker = WorkerDouble(redis)
        await worker.recover()
        async with worker.beating():
            return await use()


@pytest.fixture
def cache(valkey: EmbeddedValkey) -> Cache:
    """A cache at module level: made once, started by whoever needs it."""
    return Cache.from_env(env_file=None, redis_url=valkey.url)


@pytest.mark.leaves_keys(r"\{unstale:0\}:.*", "user:.*")
@pytest.mark.parametrize("closing", [True, False], ids=["closed", "its loop ended"])
def test_a_cache_can_be_started_again_in_another_event_loop(
    valkey: EmbeddedValkey, cache: Cache, closing: bool
) -> None:
    """As a module-level cache with ``@cache.cached`` is, in two blocks of a web framework's test client."""
    calls: list[int] = []

    @cache.cached("user:{user_id}:profile")
    async def profile(user_id: int) -> dict[str, int]:
        calls.append(user_id)
        return {"calls": len(calls)}

    async def block() -> None:
        await cache.start()
        await eventually(lambda: cache.attached)
        calls.clear()
        async with cache.subscribe(KEY) as changes:
            await profile.invalidate(42)
            for _ in ("its own", "the published one"):  # which would take the first value along
                assert isinstance(await anext(changes), Invalidated)
        assert await profile(42) == {"calls": 1}
        assert await profile(42) == {"calls": 1}
        assert cache.counters().near_hits == 1  # of this life alone
        if closing:
            await cache.close()

    for _ in range(3):
        asyncio.run(led(valkey.url, block))
    if not closing:
        asyncio.run(cache.close())


@pytest.mark.leaves_keys(r"\{unstale:0\}:.*", "user:.*")
async def test_reads_go_on_after_a_second_life(valkey: EmbeddedValkey, cache: Cache) -> None:
    async with redis_client(valkey.url) as redis:
        worker = WorkerDouble(redis)
        await worker.recover()
        async with worker.beating():
            for life in range(3):
                async with cache:
                    await eventually(lambda: cache.attached)
                    assert await cache.get_or_load(f"user:{life}:profile", lambda: 1) == 1
                    await worker.apply(f"user:{life}:profile")
                    async with cache.subscribe("*"):
                        assert len(cache.inspect().path.flights) == 0
                with pytest.raises(Exception, match="closed"):
                    await cache.get(KEY)


HIT, MISS = "user:1:profile", "user:2:profile"
CALLS: dict[str, Use] = {
    "hit": lambda cache: cache.get_or_load(HIT, lambda: 1),
    "shared hit": lambda cache: cache.get_or_load(HIT, lambda: 1, shared=True),
    "miss": lambda cache: cache.get_or_load(MISS, lambda: 1),
    "get": lambda cache: cache.get(HIT),
    "set": lambda cache: cache.set("free", 1),
    "delete": lambda cache: cache.delete(HIT),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_from_another_thread_fails_alike_for_hits_and_misses(
    valkey: EmbeddedValkey, cache: Cache, double: WorkerDouble, call: str
) -> None:
    async with cache:
        await eventually(lambda: cache.attached)
        await cache.get_or_load(HIT, lambda: 1)
        assert cache.inspect().local.near.peek(HIT) is not None
        caught: list[BaseException] = []

        def elsewhere() -> None:
            try:
                asyncio.run(_awaited(CALLS[call](cache)))
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
        (error,) = caught
        assert isinstance(error, RuntimeError)
        assert "another event loop or thread" in str(error)
        assert "unstale.redis_cache" in str(error)


@pytest.mark.leaves_keys(r"\{unstale:0\}:.*", "user:.*")
@pytest.mark.parametrize("call", [call for call in CALLS if "hit" not in call])  # a hit until `max_silence`
def test_a_call_from_another_loop_of_the_same_thread_fails_alike(
    valkey: EmbeddedValkey, cache: Cache, call: str
) -> None:
    """The first loop has stopped but is not closed: no invalidation is heard any more.

    To see that on a hit would cost each hit an eighth of its time; the near cache is trusted for
    `max_silence` at most.
    """
    first = asyncio.new_event_loop()

    async def begin() -> None:
        async with redis_client(valkey.url) as redis:
            worker = WorkerDouble(redis)
            await worker.recover()
            async with worker.beating():
                await cache.start()
                await eventually(lambda: cache.attached)
                await cache.get_or_load(HIT, lambda: 1)

    try:
        first.run_until_complete(begin())
        assert cache.inspect().local.near.peek(HIT) is not None
        with pytest.raises(RuntimeError, match="another event loop or thread"):
            asyncio.run(_awaited(CALLS[call](cache)))
        with pytest.raises(RuntimeError, match="another event loop or thread"):
            asyncio.run(_awaited(cache.start()))
    finally:
        first.run_until_complete(cache.close())
        first.close()


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work

"""Detached: Redis is trusted for a while, then each process is on its own; never a failing read."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from servers import eventually
from unstale import Cache
from unstale.freshness.tracker import Trust
from unstale.protocol.names import Epoch, LogId
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache, open_cache

KEY = "user:42:profile"
FREE = "session:42"


async def test_right_after_the_start_nothing_is_trusted(valkey: EmbeddedValkey, silent: WorkerDouble) -> None:
    await silent.redis.set(KEY, b'"of unknown age"', px=60_000)
    async with open_cache(valkey.url, redis_timeout=0.2) as cache:
        assert not cache.attached
        assert cache.staleness == math.inf
        assert await cache.get_or_load(KEY, Loader("loaded")) == "loaded"
        assert await silent.redis.get(KEY) == b'"of unknown age"'


async def test_start_waits_for_the_first_watermark(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    async with open_cache(valkey.url) as cache:
        assert cache.attached


async def test_briefly_detached_redis_answers_and_is_filled(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with silent.beating():
        cache = await Cache.from_env(env_file=None, redis_url=valkey.url).start()
    try:
        await cache.get_or_load(KEY, Loader("first"))
        await silent.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        # For a moment Redis is not trusted either: until the next replay shows the log that was followed.
        await eventually(lambda: cache._follower.trust is Trust.BRIEFLY_DETACHED)
        assert await cache.get_or_load(KEY, Loader("unused")) == "first"
        assert cache.counters().redis_hits == 1
        assert await cache.get_or_load("user:7:profile", Loader("second")) == "second"
        assert orjson.loads(await silent.redis.get("user:7:profile") or b"") == "second"
        assert cache._followed.peek("user:7:profile") is None
    finally:
        await cache.close()


async def test_detached_for_longer_each_process_is_on_its_own_until_attached_again(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with silent.beating():
        cache = await Cache.from_env(env_file=None, redis_url=valkey.url, detached_ttl=0.2).start()
    try:
        await silent.redis.set(KEY, b'"of unknown age"', px=60_000)
        await silent.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: cache._follower.trust is Trust.DETACHED)
        loader = Loader("own")
        assert await cache.get_or_load(KEY, loader) == "own"
        assert await cache.get_or_load(KEY, loader) == "own"
        assert loader.calls == 1
        assert await cache.get("user:7:profile") is None
        assert await cache.set("user:7:profile", "own, too") is False
        assert await cache.get("user:7:profile") == "own, too"
        assert await silent.redis.keys("user:7:*") == []
        async with silent.beating():
            await eventually(lambda: cache.attached)
            # Attached again: Redis is trusted, what was loaded alone is not.
            assert await cache.get_or_load(KEY, loader) == "of unknown age"
            assert await cache.get("user:7:profile") is None
    finally:
        await cache.close()


@pytest.fixture
async def alone(valkey: EmbeddedValkey, silent: WorkerDouble) -> AsyncIterator[Cache]:
    """Detached for so long that Redis is not believed, although it answers and its log is followed."""
    async with silent.beating():
        cache = await Cache.from_env(env_file=None, redis_url=valkey.url, detached_ttl=0.2).start()
    cache._follower._detached_ttl = 0.0
    cache._writer._detached_ttl = 60.0
    cache._follower.detach()
    try:
        assert cache._follower.trust is Trust.DETACHED
        yield cache
    finally:
        await cache.close()


async def heard_all(cache: Cache, worker: WorkerDouble) -> None:
    """Wait until ``cache`` has heard the last message in the log."""
    last = int(await worker.redis.hget(worker.names.state, "last") or 0)
    await eventually(lambda: cache._follower.last >= last)


async def test_what_was_set_alone_outlives_the_echo_of_it(
    alone: Cache, valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    for value in ("first", "second"):
        assert await alone.set(FREE, value) is True
        await heard_all(alone, silent)
        assert await alone.get(FREE) == value
    async with open_cache(valkey.url) as other:
        assert await other.set(FREE, "another's") is True
    await heard_all(alone, silent)
    assert await alone.get(FREE) is None


async def test_of_two_sets_at_once_alone_the_later_is_read(alone: Cache, silent: WorkerDouble) -> None:
    """Each drops what the other put, unless that is in Redis under a later log id."""
    assert all(await asyncio.gather(alone.set(FREE, "earlier"), alone.set(FREE, "later")))
    assert await silent.redis.get(FREE) == b'"later"'
    assert await alone.get(FREE) == "later"


async def test_what_was_set_alone_is_dropped_by_a_pattern_of_later(
    alone: Cache, silent: WorkerDouble
) -> None:
    assert await alone.set(FREE, "own") is True
    await heard_all(alone, silent)
    await silent.apply(patterns=["session:*"])
    await heard_all(alone, silent)
    assert await alone.get(FREE) is None


async def test_an_id_of_another_log_says_nothing(
    alone: Cache, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a split: what was put went to the server left behind, whose ids ran ahead."""
    tier = alone._writer._tier
    assert tier is not None

    async def elsewhere(*args: Any, **options: Any) -> tuple[LogId, Epoch | None] | None:
        return LogId(500), Epoch("another")

    monkeypatch.setattr(tier, "put", elsewhere)
    assert await alone.set(FREE, "own") is True
    assert await alone.get(FREE) == "own"
    await silent.apply(FREE)
    await heard_all(alone, silent)
    assert await alone.get(FREE) is None


@pytest.mark.parametrize("by", ["set", "pattern", "delete here"])
async def test_what_was_set_alone_and_overtaken_before_the_answer_came_is_not_kept(
    alone: Cache, valkey: EmbeddedValkey, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    tier = alone._writer._tier
    assert tier is not None
    put = tier.put

    async def slow(*args: Any, **options: Any) -> tuple[LogId, Epoch | None] | None:
        logged = await put(*args, **options)
        if by == "set":
            async with open_cache(valkey.url) as other:
                assert await other.set(FREE, "another's") is True
        elif by == "pattern":
            await silent.apply(patterns=["session:*"])
        else:
            assert await alone.delete(FREE) is True
        await heard_all(alone, silent)
        return logged

    monkeypatch.setattr(tier, "put", slow)
    assert await alone.set(FREE, "own") is True
    assert await alone.get(FREE) is None


async def test_own_loads_are_kept_for_detached_ttl_and_no_longer(valkey: EmbeddedValkey) -> None:
    async with open_cache(valkey.url, detached_ttl=0.1, redis_enabled=False) as cache:
        loader = Loader(1)
        await cache.get_or_load(KEY, loader, ttl=3600)

        async def loaded_again() -> bool:
            await cache.get_or_load(KEY, loader, ttl=3600)
            return loader.calls == 2

        await eventually(loaded_again)


async def test_with_redis_away_values_come_from_loaders_once(
    valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    await valkey.kill()
    with caplog.at_level(logging.WARNING, "unstale"):
        async with open_cache(valkey.url) as cache:
            loader = Loader({"name": "Ada"})
            assert await cache.get_or_load(KEY, loader) == {"name": "Ada"}
            assert await cache.get_or_load(KEY, loader) == {"name": "Ada"}
            assert loader.calls == 1
            assert await cache.get("user:7:profile") is None
            assert await cache.set("user:7:profile", 1) is False
            assert await cache.get("user:7:profile") == 1
            assert await cache.invalidate_pattern("user:7:*") == 0
            assert await cache.get("user:7:profile") is None
            stats = await cache.get_stats()
    assert (stats["connected"], stats["status"], stats["staleness"]) == (False, "unavailable", None)
    assert caplog.text.count("lost Redis at") == 1


async def test_a_delete_that_redis_did_not_confirm_says_so_and_is_done_here(
    valkey: EmbeddedValkey, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with attached_cache(valkey.url) as cache:
        loader = Loader("old")
        await cache.get_or_load(KEY, loader)
        await valkey.kill()
        with caplog.at_level(logging.WARNING, "unstale"):
            assert await cache.delete(KEY) is False
        assert "did not confirm" in caplog.text
        assert cache.counters().lost_invalidations == 1
        loader.value = "new"
        assert await cache.get_or_load(KEY, loader) == "new"


async def test_without_redis_by_choice_it_is_an_in_memory_cache() -> None:
    async with open_cache("redis://127.0.0.1:1/0", redis_enabled=False) as cache:
        assert await cache.set(FREE, 1, ttl=10) is True
        assert await cache.get(FREE) == 1
        assert await cache.delete(FREE) is True
        assert await cache.get(FREE) is None
        loader = Loader("loaded")
        reads = [cache.get_or_load(KEY, loader) for _ in range(50)]
        assert set(await asyncio.gather(*reads)) == {"loaded"}
        assert loader.calls == 1
        await cache.wait_for("1:1:5:0/1")
        assert await cache.get(KEY) is None  # nothing older is served after it
        stats = await cache.get_stats()
        assert (stats["enabled"], stats["connected"], stats["status"]) == (False, False, "disabled")


async def test_a_load_overtaken_by_the_own_delete_is_not_kept_when_alone() -> None:
    async with open_cache("redis://127.0.0.1:1/0", redis_enabled=False) as cache:
        loader = Loader("old")
        loader.gate.clear()
        read = asyncio.create_task(cache.get_or_load(KEY, loader))
        await loader.entered.wait()
        await cache.delete(KEY)
        loader.gate.set()
        await read
        loader.value = "new"
        assert await cache.get_or_load(KEY, loader) == "new"


async def test_get_load_set_overtaken_by_the_own_delete_is_not_kept_when_alone() -> None:
    async with open_cache("redis://127.0.0.1:1/0", redis_enabled=False) as cache:
        assert await cache.get(KEY) is None
        await cache.delete(KEY)
        assert await cache.set(KEY, "old") is False
        assert await cache.get(KEY) is None

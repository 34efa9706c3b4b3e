"""Detached: Redis is trusted for a while, then each process is on its own; never a failing read."""

import asyncio
import logging
import math
from functools import partial

import orjson
import pytest

from servers import eventually
from unstale import Cache, RedisUnavailable
from unstale.freshness.trust import Trust
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache, heard, open_cache

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
        await eventually(partial(heard, cache))
    try:
        await cache.get_or_load(KEY, Loader("first"))
        await silent.cut_off()
        # For a moment Redis is not trusted either: until the next replay shows the log that was followed.
        await eventually(lambda: cache.inspect().freshness.trust is Trust.BRIEFLY_DETACHED)
        assert await cache.get_or_load(KEY, Loader("unused")) == "first"
        assert cache.counters().redis_hits == 1
        assert await cache.get_or_load("user:7:profile", Loader("second")) == "second"
        assert orjson.loads(await silent.redis.get("user:7:profile") or b"") == "second"
        assert cache.inspect().local.near.peek("user:7:profile") is None
    finally:
        await cache.close()


async def test_detached_for_longer_each_process_is_on_its_own_until_attached_again(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with silent.beating():
        cache = await Cache.from_env(env_file=None, redis_url=valkey.url, detached_ttl=0.2).start()
        await eventually(partial(heard, cache))
    try:
        await silent.redis.set(KEY, b'"of unknown age"', px=60_000)
        await silent.cut_off()
        await eventually(lambda: cache.inspect().freshness.trust is Trust.DETACHED)
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


async def test_a_free_key_that_was_set_while_detached_is_in_redis_only(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    """The message about it would drop a copy kept here, so none is kept: it is read once attached again."""
    async with silent.beating():
        cache = await Cache.from_env(env_file=None, redis_url=valkey.url, detached_ttl=0.001).start()
        await eventually(partial(heard, cache))
    try:
        await silent.cut_off()
        await eventually(lambda: cache.inspect().freshness.trust is Trust.DETACHED)
        assert await cache.set(FREE, "own") is True
        assert await silent.redis.get(FREE) == b'"own"'
        assert await cache.get(FREE) is None
        async with silent.beating():
            await eventually(lambda: cache.attached)
            assert await cache.get(FREE) == "own"
    finally:
        await cache.close()


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
            with pytest.raises(RedisUnavailable, match="did not confirm the invalidation of pattern"):
                await cache.invalidate_pattern("user:7:*")
            assert await cache.get("user:7:profile") is None
            stats = await cache.get_stats()
    assert (stats["connected"], stats["status"], stats["staleness"]) == (False, "unavailable", None)
    assert caplog.text.count("detached: cannot reach Redis at") == 1
    assert "lost Redis" not in caplog.text  # it was never there


async def test_a_delete_that_redis_did_not_confirm_says_so_and_is_done_here(
    valkey: EmbeddedValkey, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with attached_cache(valkey.url) as cache:
        loader = Loader("old")
        await cache.get_or_load(KEY, loader)
        await valkey.kill()
        with (
            caplog.at_level(logging.WARNING, "unstale"),
            pytest.raises(RedisUnavailable, match=r"did not confirm.*Call it again when Redis is back"),
        ):
            await cache.delete(KEY)
        assert "did not confirm" in caplog.text
        assert cache.counters().lost_invalidations == 1
        loader.value = "new"
        assert await cache.get_or_load(KEY, loader) == "new"


async def test_without_redis_by_choice_it_is_an_in_memory_cache() -> None:
    async with open_cache("redis://127.0.0.1:1/0", redis_enabled=False) as cache:
        assert await cache.set(FREE, 1, ttl=10) is True
        assert await cache.get(FREE) == 1
        await cache.delete(FREE)
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


async def test_without_a_worker_the_log_says_to_start_one(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "unstale"):
        async with open_cache(redis_url, max_silence=3.0) as cache:
            for key in (KEY, "session:1", "user:7:settings"):
                assert await cache.get_or_load(key, lambda: 1) == 1
            await eventually(lambda: cache.inspect().following.replays >= 2)  # connected again meanwhile
    assert caplog.text.count("no worker has led there") == 1
    assert caplog.text.count("Redis holds no rules, so no worker has ever led there") == 1
    assert "no rule owns" not in caplog.text
    assert "lost Redis" not in caplog.text


async def test_without_a_worker_set_and_get_many_say_the_same(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_cache(redis_url) as cache:
        await cache.set(KEY, 1)
        await cache.get_many([KEY, "user:7:profile"], lambda keys: dict.fromkeys(keys, 1))
    assert "Redis holds no rules" in caplog.text
    assert "no rule owns" not in caplog.text

"""Values of another schema are misses, also while two versions read them; large values are not kept."""

import asyncio

import orjson
import pytest
from pydantic import BaseModel, create_model

from unstale import Cache
from unstale.sync import Cache as BlockingCache
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY = "user:1:profile"
Old: type[BaseModel] = create_model("Profile", name=str)
New: type[BaseModel] = create_model("Profile", name=str, plan=(str, "free"))


async def test_two_versions_take_turns_and_never_read_each_others_values(
    cache: Cache, valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    """A rolling deploy: each read of the other's value is one load, and memory goes on to answer."""
    old, new = Loader({"name": "Ada"}), Loader({"name": "Ada", "plan": "pro"})
    async with attached_cache(valkey.url) as other:
        for turn in range(1, 4):
            for number in (1, 2):
                key = f"user:{number}{turn}:profile"
                first = await cache.get_or_load(key, old, model=Old)
                assert first == Old(name="Ada")
                assert await other.get_or_load(key, new, model=New) == New(name="Ada", plan="pro")
                assert await cache.get_or_load(key, old, model=Old) == first, "its own copy, in memory"
                assert await cache.get_or_load(key, old) == {"name": "Ada"}, "without a model"
                cache.inspect().local.drop([key])
                many = await cache.get_many([key], lambda keys: {keys[0]: {"name": "Eve"}}, model=Old)
                assert many == {key: Old(name="Eve")}
        assert other.counters().unreadable_values == 6
        assert other.counters().misses == 6
        assert other.counters().redis_hits == 0
        await cache.get_or_load(KEY, old, model=Old)
        assert await other.get(KEY, model=New, default="none") == "none"
        assert await other.get_many([KEY], model=New) == {}
    assert new.calls == 6
    assert caplog.text.count("a model of another schema") == 2, "once for each cache and kind of key"


async def test_a_blocking_cache_and_a_plain_set_carry_the_fingerprint(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    await cache.set("session:1", Old(name="Ada"))
    found = await double.redis.get("session:1")
    assert isinstance(found, bytes)
    assert orjson.loads(found) == {"name": "Ada"}
    assert found != b'{"name":"Ada"}'

    def read() -> object:
        with BlockingCache.from_env(env_file=None, redis_url=valkey.url) as blocking:
            blocking.get_or_load("session:1", lambda: {"name": "Ada"}, model=Old)
            value = blocking.get_or_load("session:1", lambda: {"name": "Ada", "plan": "pro"}, model=New)
            assert blocking.get_or_load("session:1", lambda: 1 / 0, model=New) == value
            assert blocking.counters().unreadable_values == 1
            return value

    assert await asyncio.to_thread(read) == New(name="Ada", plan="pro")


async def test_readers_with_two_models_that_share_a_load_are_both_answered(cache: Cache) -> None:
    slow = Loader({"name": "Ada"})
    slow.gate.clear()
    one = asyncio.create_task(cache.get_or_load(KEY, slow, model=Old))
    await slow.entered.wait()
    other = asyncio.create_task(cache.get_or_load(KEY, slow, model=New))
    await asyncio.sleep(0)
    slow.gate.set()
    assert await one == Old(name="Ada")
    assert await other == New(name="Ada")


async def test_a_value_that_is_too_large_is_returned_and_not_stored(
    valkey: EmbeddedValkey, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    large = Loader("x" * 2_000)
    async with attached_cache(valkey.url, max_value_bytes=1024) as cache:
        for number in range(3):
            key = f"user:{number}:profile"
            assert await cache.get_or_load(key, large) == "x" * 2_000
            assert await cache.get_or_load(key, large) == "x" * 2_000
            assert await cache.get_many([key], lambda keys: dict.fromkeys(keys, "y" * 2_000)) == {
                key: "y" * 2_000
            }
            assert not await double.redis.exists(key), "neither a value nor a lease"
        assert large.calls == 6
        await cache.set("session:1", "small")
        assert not await cache.set("session:1", "x" * 2_000)
        assert await cache.get("session:1") is None, "what was there is older"
        assert cache.counters().too_large_values == 10
        assert cache.counters().near_entries == 0
    assert caplog.text.count("UNSTALE_MAX_VALUE_BYTES") == 2, "once for each kind of key"

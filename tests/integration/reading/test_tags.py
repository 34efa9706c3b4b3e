"""Values under tags, against a real server: what is valid, what is not, and what a load may store."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson
import pytest

from servers import eventually
from unstale import Cache
from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import TAG, TAGGED
from unstale.protocol.tags import record
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache, open_cache, redis_client

MEMORIES, PLAN = "user:42:memories", "plan:pro"
SEARCHES = ("search:42:cats", "search:42:dogs")
RULES = PublishedRules(
    hash="rules-tags",
    patterns=("user:*:profile", TAG + "user:*:memories", TAG + "plan:*"),
    ttl=(("search:*", 3600.0),),
)


def missing(cache: Cache, key: str) -> bool:
    """Return True if the near cache does not hold ``key``."""
    return cache.inspect().local.near.peek(key) is None


@pytest.fixture
async def silent(valkey: EmbeddedValkey) -> AsyncIterator[WorkerDouble]:
    async with redis_client(valkey.url) as redis:
        worker = WorkerDouble(redis, rules=RULES)
        await worker.recover(age=3600)
        yield worker


async def test_one_change_invalidates_every_value_under_its_tag_and_no_other(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    """In Redis, in this process and in another one; and not what has another tag, or none."""
    async with attached_cache(valkey.url) as other:
        for reader in (cache, other):
            for key in SEARCHES:
                assert await reader.get_or_load(key, Loader("old"), tags=[MEMORIES, PLAN]) == "old"
            assert await reader.get_or_load("plan", Loader("kept"), tags=[PLAN]) == "kept"
            assert await reader.get_or_load("user:42:profile", Loader("kept")) == "kept"
            assert len(reader.inspect().local.near) == 4
        stored: Any = await double.redis.get(SEARCHES[0])
        assert stored.startswith(TAGGED)
        assert stored.endswith(b'"old"')
        assert await double.redis.pttl(record(MEMORIES)) >= await double.redis.pttl(SEARCHES[0])

        await double.apply(record(MEMORIES))
        await eventually(lambda: len(cache.inspect().local.near) == len(other.inspect().local.near) == 2)
        assert await cache.get(SEARCHES[0]) is None
        loader = Loader("new")
        assert await other.get_or_load(SEARCHES[0], loader, tags=[MEMORIES, PLAN]) == "new"
        assert await cache.get_or_load(SEARCHES[0], loader, tags=[PLAN, MEMORIES]) == "new"
        assert await cache.get_or_load("plan", loader, tags=[PLAN]) == "kept"
        assert loader.calls == 1


async def test_a_fill_that_an_invalidation_of_a_tag_overtakes_stores_nothing(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    """Its lease died: the next reader does not wait for that load either."""
    key, (began, goes_on) = SEARCHES[0], (asyncio.Event(), asyncio.Event())

    async def slow() -> str:
        began.set()
        await goes_on.wait()
        return "old"

    reading = asyncio.create_task(cache.get_or_load(key, slow, tags=[MEMORIES]))
    await began.wait()
    await double.apply(record(MEMORIES))
    async with attached_cache(valkey.url) as other:
        assert await other.get_or_load(key, Loader("new"), tags=[MEMORIES]) == "new"
        goes_on.set()
        assert await reading == "old"  # its caller came before the change
        assert cache.counters().fills_refused == 1
        assert await cache.get_or_load(key, Loader("newer"), tags=[MEMORIES]) == "new"


async def test_who_comes_after_an_invalidation_of_a_tag_joins_no_older_load(
    cache: Cache, double: WorkerDouble
) -> None:
    key, (began, goes_on) = SEARCHES[0], (asyncio.Event(), asyncio.Event())

    async def slow() -> str:
        began.set()
        await goes_on.wait()
        return "old"

    first = asyncio.create_task(cache.get_or_load(key, slow, tags=[PLAN]))
    await began.wait()
    await double.apply(record(MEMORIES))
    await eventually(lambda: cache.inspect().local.invalidations > 0)
    second = asyncio.create_task(cache.get_or_load(key, Loader("new"), tags=[PLAN, MEMORIES]))
    await asyncio.sleep(0)
    goes_on.set()
    assert (await first, await second) == ("old", "new")  # the first load may be older than MEMORIES


async def test_an_evicted_record_makes_its_values_invalid(cache: Cache, double: WorkerDouble) -> None:
    """Also when it is made again: it then has another version."""
    key = SEARCHES[0]
    await cache.get_or_load(key, Loader("old"), tags=[MEMORIES, PLAN])
    await double.redis.delete(record(PLAN))
    cache.inspect().local.flush()
    assert await cache.get(key) is None
    await cache.get_or_load("another", Loader("x"), tags=[PLAN])
    assert await cache.get(key) is None
    assert await cache.get_or_load(key, Loader("new"), tags=[MEMORIES, PLAN]) == "new"


async def test_a_reader_gets_only_values_with_all_its_tags(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    """A release that adds a tag replaces what one without it stored; the older one reads the new value."""
    key = SEARCHES[0]
    async with attached_cache(valkey.url) as older:
        assert await older.get_or_load(key, Loader("untagged")) == "untagged"
        assert await cache.get_or_load(key, Loader("one"), tags=[PLAN]) == "one"
        older.inspect().local.flush()
        assert await older.get_or_load(key, Loader("x")) == await older.get(key) == "one"
        assert len(older.inspect().local.near) == 0  # it does not know what invalidates the value
        assert await cache.get_or_load(key, Loader("two"), tags=[PLAN, MEMORIES]) == "two"
        older.inspect().local.flush()
        assert await older.get_or_load(key, Loader("x"), tags=[PLAN]) == "two"
        assert await older.get_many([key], lambda _: {key: "x"}, tags=lambda _: [PLAN]) == {key: "two"}
        assert await older.get_many([key]) == await older.get_many([key], tags=[PLAN]) == {key: "two"}
        await double.apply(record(MEMORIES))
        assert await older.get_many([key]) == await older.get_many([key], tags=[PLAN]) == {}
        assert await older.get_or_load(key, Loader("three"), tags=[PLAN]) == "three"


async def test_invalidate_tag_returns_when_nothing_older_is_served(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    hostile = ("a\n1:1:b", "deadbeef:3:abc", "{x}*?[", "\x00unstale:soft:tags\n", " ", "ö" * 500)
    async with attached_cache(valkey.url) as other:
        for tag in (MEMORIES, *hostile):
            key = f"search:{len(tag)}"
            await cache.get_or_load(key, Loader("old"), tags=[tag, PLAN])
            await other.get_or_load(key, Loader("x"), tags=[tag, PLAN])
            await cache.invalidate_tag(tag)
            assert await cache.get(key) is None
            await eventually(partial(missing, other, key))
            assert await other.get_or_load(key, Loader("new"), tags=[tag, PLAN]) == "new", tag
            await cache.invalidate_tags([tag, PLAN], lsn="0/1")
            assert await other.get_or_load(key, Loader("newer"), tags=[tag]) in ("new", "newer")
    for wrong in ("", "x" * 1001, "\ud800"):
        with pytest.raises(ValueError, match="tag"):
            await cache.invalidate_tag(wrong)
        with pytest.raises(ValueError, match="tag"):
            await cache.get_or_load("search:1", Loader(1), tags=[wrong])
    with pytest.raises(ValueError, match="at most 16 tags, and here are 17"):
        await cache.get_or_load("search:1", Loader(1), tags=[str(number) for number in range(17)])
    with pytest.raises(TypeError, match="expected a list"):
        await cache.get_or_load("search:1", Loader(1), tags="user:42")
    with pytest.raises(ValueError, match="reserves"):
        await cache.get(record(MEMORIES))


async def test_set_stores_under_tags_only_after_a_get_that_named_them(
    cache: Cache, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    key = SEARCHES[0]
    assert await cache.set(key, "blind", tags=[MEMORIES]) is False
    assert "stored nothing: a rule owns this key or a tag" in caplog.text
    assert await cache.get(key) is None
    assert await cache.set(key, "of a get that named no tag", tags=[MEMORIES]) is False
    assert await cache.get(key, tags=[MEMORIES]) is None
    await double.apply(record(MEMORIES))
    assert await cache.set(key, "overtaken", tags=[MEMORIES]) is False
    assert await cache.get(key, tags=[MEMORIES]) is None
    assert await cache.set(key, "stored") is True
    assert await cache.get(key, tags=[MEMORIES]) == "stored"
    await cache.invalidate_tag(MEMORIES)
    assert await cache.get(key) is None
    assert await cache.set(key, "free", tags=["nobody's"]) is True
    assert await cache.get(key, tags=["nobody's"]) == "free"
    await cache.invalidate_tag("nobody's")
    assert await cache.get(key) is None


async def test_a_tag_is_owned_like_a_key(
    cache: Cache, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    """A tag that no rule owns is warned about once; one that a rule owns bounds the staleness."""
    await cache.get_or_load("free:1", Loader(1), tags=["user:1:memmories"])
    await cache.get_or_load("free:2", Loader(1), tags=["user:2:memmories"])
    assert caplog.text.count("no rule owns the tag") == 1
    caplog.clear()
    loader = Loader(1)
    for _ in range(2):
        await cache.get_or_load("free:3", loader, tags=[MEMORIES], max_staleness=60)
    assert loader.calls == 1  # without an owned tag, max_staleness asks the loader each time
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_fresh_and_early_loads_keep_a_tagged_value_readable(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    key = SEARCHES[0]
    await cache.get_or_load(key, Loader(1), tags=[MEMORIES], ttl=60)
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def slow() -> int:
        began.set()
        await goes_on.wait()
        return 2

    fresh = asyncio.create_task(cache.get_or_load(key, slow, tags=[MEMORIES], fresh=True))
    await began.wait()
    async with attached_cache(valkey.url) as other:
        assert await other.get_or_load(key, Loader("x"), tags=[MEMORIES]) == 1
        goes_on.set()
        assert await fresh == 2
        await eventually(lambda: other.inspect().local.near.peek(key) is not None)
    await double.redis.pexpire(key, 30_000)
    cache.inspect().local.flush()
    loader = Loader(3)
    for _ in range(2):  # from Redis, with less than half of its life left; then the early load
        assert await cache.get_or_load(key, loader, tags=[MEMORIES], ttl=60, refresh_ahead=0.9) in (2, 3)
        await eventually(lambda: not cache.inspect().early.running)
    assert await cache.get_or_load(key, loader, tags=[MEMORIES]) == 3
    began.clear()
    goes_on.clear()
    fresh = asyncio.create_task(cache.get_or_load(key, slow, tags=[MEMORIES], fresh=True))
    await began.wait()
    await double.apply(record(MEMORIES))
    goes_on.set()
    assert await fresh == 2
    assert await cache.get(key) is None  # overtaken: neither the old value nor the fresh one


async def test_a_refreshed_key_cannot_have_tags(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    refreshed = PublishedRules("r", ("user:*:profile",), refresh=(("user:*:profile", 30.0),))
    double.rules = refreshed
    await double.recover()
    async with attached_cache(valkey.url) as cache:
        with pytest.raises(ValueError, match=r"cannot have tags: a \[refresh\] rule"):
            await cache.get_or_load("user:1:profile", Loader(1), tags=[MEMORIES])


async def test_a_release_without_tags_takes_a_tagged_value_for_a_miss(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for a lease, and what it stores is no value for readers that name tags."""
    key = SEARCHES[0]
    await cache.get_or_load(key, Loader("tagged"), tags=[MEMORIES])
    async with open_cache(valkey.url, lease_ttl=60.0) as older:
        await eventually(lambda: older.attached)
        from unstale.protocol import codec

        with monkeypatch.context() as patch:  # what release 0.1.0 does with such content
            patch.setattr(codec, "is_tagged", lambda data: False)
            patch.setattr(codec, "is_soft_lease", lambda data: data.startswith(b"\x00unstale:soft:"))
            patch.setattr(codec, "is_lease", lambda data: data.startswith(b"\x00"))
            assert await older.get_or_load(key, Loader("untagged")) == "untagged"
    assert orjson.loads(await double.redis.get(key) or b"") == "untagged"
    cache.inspect().local.flush()
    assert await cache.get_or_load(key, Loader("tagged again"), tags=[MEMORIES]) == "tagged again"


async def test_a_key_of_another_type_and_a_full_redis_cost_loads_and_no_error(
    cache: Cache, double: WorkerDouble
) -> None:
    key = SEARCHES[0]
    await double.redis.lpush(key, "a list")
    assert await cache.get_or_load(key, Loader("loaded"), tags=[MEMORIES]) == "loaded"
    await double.redis.delete(key)
    await cache.get_or_load(SEARCHES[1], Loader("cached"), tags=[MEMORIES])
    await double.redis.config_set("maxmemory", "1")
    await double.redis.config_set("maxmemory-policy", "noeviction")
    cache.inspect().local.flush()
    loader = Loader("not stored")
    assert await cache.get_or_load(SEARCHES[1], loader, tags=[MEMORIES]) == "cached"
    assert await cache.get_or_load("another", loader, tags=[MEMORIES]) == "not stored"
    await cache.invalidate_tag(MEMORIES)  # is never refused for memory
    assert await cache.get_or_load(SEARCHES[1], loader, tags=[MEMORIES]) == "not stored"

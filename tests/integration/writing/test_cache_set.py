"""`get`, `set`, `delete` and `invalidate_pattern`: safe although each is a call of its own."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import orjson
import pytest

from servers import eventually
from unstale import Cache, Invalidated
from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import SOFT_LEASE
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache, open_cache

OWNED = "user:42:profile"
FREE = "session:42"


async def test_get_load_set_stores_under_the_lease_of_the_miss(cache: Cache, double: WorkerDouble) -> None:
    assert await cache.get(OWNED) is None
    lease: Any = await double.redis.get(OWNED)
    assert (lease or b"").startswith(SOFT_LEASE)
    assert await cache.set(OWNED, {"name": "Ada"}, ttl=3600) is True
    assert await cache.get(OWNED) == {"name": "Ada"}
    assert 3_500_000 < await double.redis.pttl(OWNED) <= 3_600_000


async def test_a_set_overtaken_by_an_invalidation_stores_nothing(cache: Cache, double: WorkerDouble) -> None:
    await cache.get(OWNED)
    await double.apply(OWNED)
    assert await cache.set(OWNED, "old") is False
    assert await double.redis.get(OWNED) is None
    assert await cache.get(OWNED) is None


async def test_a_miss_counts_once(cache: Cache, double: WorkerDouble) -> None:
    await cache.get(OWNED)
    assert await cache.set(OWNED, 1) is True
    assert await cache.set(OWNED, 2) is False
    assert await double.redis.get(OWNED) is None


async def test_a_miss_belongs_to_its_task(cache: Cache, double: WorkerDouble) -> None:
    await asyncio.create_task(cache.get(OWNED))
    assert await cache.set(OWNED, "of another task") is False
    assert await double.redis.get(OWNED) is None


async def test_a_miss_under_anothers_lease_sets_nothing_and_says_nothing(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with attached_cache(valkey.url) as other:
        await other.get(OWNED)
        assert await cache.get(OWNED) is None
        assert await cache.set(OWNED, "second") is False
        assert await other.set(OWNED, "first") is True
    assert await cache.get(OWNED) == "first"
    assert "stored nothing" not in caplog.text


async def test_a_loader_takes_the_lease_of_a_missed_get_over(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    async with attached_cache(valkey.url) as other:
        await other.get(OWNED)
        assert await cache.get_or_load(OWNED, Loader("loaded")) == "loaded"
        assert await other.set(OWNED, "set") is False
    assert orjson.loads(await double.redis.get(OWNED) or b"") == "loaded"


async def test_set_of_an_owned_key_without_a_miss_invalidates_and_warns_once(
    cache: Cache, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    await cache.get_or_load(OWNED, Loader("loaded"))
    with caplog.at_level(logging.WARNING, "unstale"):
        assert await cache.set(OWNED, "unproven") is False
        assert await cache.set("user:43:profile", "unproven") is False
    assert await cache.get(OWNED) is None
    assert caplog.text.count("stored nothing") == 1


async def test_set_of_a_free_key_reaches_the_other_instances(cache: Cache, valkey: EmbeddedValkey) -> None:
    async with attached_cache(valkey.url) as other:
        await cache.set(FREE, 1, ttl=60)
        assert await other.get(FREE) == 1
        async with other.subscribe(FREE) as events:
            assert await cache.set(FREE, 2, ttl=60) is True
            await anext(events)
        assert await other.get(FREE) == 2
        assert await cache.get(FREE) == 2


async def test_a_free_key_expires_in_memory_with_redis(cache: Cache, double: WorkerDouble) -> None:
    await cache.set(FREE, 1, ttl=3600)
    await double.redis.pexpire(FREE, 120)
    assert await cache.get(FREE) == 1
    entry = cache.inspect().local.near.peek(FREE)
    assert entry is not None
    assert entry.expires - cache._now() <= 0.12

    async def gone() -> bool:
        return bool(await cache.get_or_load(FREE, Loader(2), ttl=60) == 2)

    await eventually(gone)


async def test_a_free_key_without_a_ttl_gets_the_default_and_one_warning(
    cache: Cache, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "unstale"):
        await cache.set(FREE, 1)
        await cache.set("session:43", 1)
        await cache.get_or_load("session:44", Loader(1))
    assert 59_000 < await double.redis.pttl(FREE) <= 60_000
    assert caplog.text.count("no rule owns") == 1
    assert FREE in caplog.text


async def test_ttls_come_from_the_call_the_rules_or_the_default(cache: Cache, double: WorkerDouble) -> None:
    await cache.get_or_load(OWNED, Loader(1))
    await cache.get_or_load("user:42:settings", Loader(1))
    await cache.get_or_load("user:43:profile", Loader(1), ttl=5)
    rule, default, call = [
        await double.redis.pttl(key) for key in (OWNED, "user:42:settings", "user:43:profile")
    ]
    assert 3_200_000 < rule <= 3_600_000
    assert 53_000 < default <= 60_000
    assert 4_400 < call <= 5_000


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "5", True, timedelta(seconds=-5), [5]])
async def test_an_impossible_ttl_is_refused(cache: Cache, ttl: Any) -> None:
    kind = TypeError if isinstance(ttl, bool | list) else ValueError
    with pytest.raises(kind, match="ttl is"):
        await cache.set(FREE, 1, ttl=ttl)
    with pytest.raises(kind, match="ttl is"):
        await cache.get_or_load(FREE, Loader(1), ttl=ttl)


async def test_delete_is_gone_here_and_in_every_instance(cache: Cache, valkey: EmbeddedValkey) -> None:
    loader = Loader("old")
    async with attached_cache(valkey.url) as other:
        for each in (cache, other):
            await each.get_or_load(OWNED, loader)
        loader.value = "new"
        async with other.subscribe(OWNED) as events:
            await cache.delete(OWNED)
            assert await cache.get_or_load(OWNED, loader) == "new"
            await anext(events)
        assert await other.get_or_load(OWNED, loader) == "new"


async def test_a_load_that_began_before_a_delete_is_not_kept(cache: Cache, double: WorkerDouble) -> None:
    loader = Loader("old")
    loader.gate.clear()
    read = asyncio.create_task(cache.get_or_load(OWNED, loader))
    await loader.entered.wait()
    await cache.delete(OWNED)
    loader.value = "new"
    own = asyncio.create_task(cache.get_or_load(OWNED, loader))
    await asyncio.sleep(0)
    loader.gate.set()
    assert await read == "old"
    assert await own == "new"


async def test_many_keys_are_deleted_in_messages_that_fit(cache: Cache, double: WorkerDouble) -> None:
    keys = [f"user:{'x' * 200}{number}:profile" for number in range(1_200)]
    last = int(await double.redis.hget(double.names.state, "last") or 0)
    async with cache.subscribe("*") as events:
        await cache.delete(*keys)
        heard: set[str] = set()
        while len(heard) < len(keys):
            event = await anext(events)
            assert isinstance(event, Invalidated)
            heard.update(event.keys)
    assert heard == set(keys)
    assert int(await double.redis.hget(double.names.state, "last") or 0) - last >= 5


async def test_delete_makes_loaders_read_the_primary_until_the_next_watermark(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with open_cache(valkey.url) as cache:
        await cache.delete(OWNED, lsn="16/B374D848")
        assert await silent.redis.hmget(silent.names.state, "need_lsn", "primary_until") == [
            b"16/B374D848",
            None,
        ]
        await cache.delete(OWNED)
        assert await silent.redis.hget(silent.names.state, "primary_until") == b"2"
        await silent.watermark()
        assert await silent.redis.hget(silent.names.state, "primary_until") is None


@pytest.mark.parametrize("lsn", ["", "16", "16/XYZ", "0/123456789"])
async def test_an_lsn_that_is_none_is_refused(cache: Cache, lsn: str) -> None:
    with pytest.raises(ValueError, match="WAL position"):
        await cache.delete(OWNED, lsn=lsn)


async def test_a_pattern_removes_what_it_matches_and_only_that(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    async with attached_cache(valkey.url) as other:
        for user in (41, 42):
            for kind in ("profile", "settings"):
                for each in (cache, other):
                    await each.get_or_load(f"user:{user}:{kind}", Loader("old"))
        async with other.subscribe("*") as events:
            assert await cache.invalidate_pattern("user:42:*") == 2
            await anext(events)
            await anext(events)  # once before the scan, once after it
        for each in (cache, other):
            assert await each.get("user:41:profile") == "old"
            assert await each.get("user:42:profile") is None


@pytest.mark.leaves_keys("queue")
async def test_even_a_star_leaves_unstale_and_other_types_alone(cache: Cache, double: WorkerDouble) -> None:
    await double.redis.lpush("queue", "job")
    await cache.get_or_load(OWNED, Loader(1))
    assert await cache.invalidate_pattern("*") == 1
    assert await double.redis.exists(double.names.state, double.names.log, double.names.rules, "queue") == 4


async def test_an_empty_pattern_is_a_mistake(cache: Cache) -> None:
    with pytest.raises(ValueError, match="empty pattern"):
        await cache.invalidate_pattern("")


@pytest.mark.parametrize("own", [True, False])
async def test_a_set_under_rules_that_this_agent_has_not_heard_of(
    cache: Cache, silent: WorkerDouble, own: bool
) -> None:
    """The new ones own the key, or not: a `set` by the old ones would store what nobody watches."""
    rules = PublishedRules(hash="rules-2", patterns=("session:*" if own else "other:*",), ttl=())
    await silent.redis.set(silent.names.rules, rules.encode())
    await silent.redis.hset(silent.names.state, "rules", rules.hash)
    assert cache.inspect().rules.hash == "rules-1"
    assert await cache.set(FREE, 1) is not own
    assert await silent.redis.get(FREE) == (None if own else b"1")
    assert cache.inspect().rules.hash == "rules-2"

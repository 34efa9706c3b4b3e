"""No near copy outlives the TTL that another process asked for, below the TTL of the key's rule."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import orjson
import pytest

from servers import eventually
from unstale import Cache
from unstale.redis_tier.tier import RedisTier
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.refresh.ttl import Ttls
from unstale_worker.rules.refresh import RefreshSpec
from workers.double import RULES, WorkerDouble, attached_cache, redis_client

RULED = "user:42:profile"  # [ttl] says one hour
UNRULED = "user:42:settings"  # owned, but no [ttl] pattern names it
SHORT = 30.0
KEEPING = replace(RULES, refresh=((RULED, 60.0), (UNRULED, 60.0)))

Write = Callable[[Cache, str], Awaitable[object]]
Read = Callable[[Cache, str], Awaitable[object]]


@pytest.fixture(params=[RULES, KEEPING], ids=["plain", "serve_stale"])
async def writer(valkey: EmbeddedValkey, request: pytest.FixtureRequest) -> AsyncIterator[WorkerDouble]:
    async with redis_client(valkey.url) as client:
        double = WorkerDouble(client, rules=request.param)
        await double.recover()
        async with double.beating():
            yield double


async def get_load_set(cache: Cache, key: str) -> None:
    assert await cache.get(key) is None
    assert await cache.set(key, "old", ttl=SHORT)


async def load(cache: Cache, key: str) -> None:
    assert await cache.get_or_load(key, lambda: "old", ttl=SHORT) == "old"


async def load_many(cache: Cache, key: str) -> None:
    await cache.get_many([key, "user:7:profile"], lambda keys: dict.fromkeys(keys, "old"), ttl=SHORT)


async def load_nothing(cache: Cache, key: str) -> None:
    assert await cache.get_or_load(key, lambda: None, negative_ttl=SHORT) is None


async def replace_value(cache: Cache, key: str) -> None:
    await cache.get_or_load(key, lambda: "older")
    assert await cache.get_or_load(key, lambda: "old", ttl=SHORT, fresh=True) == "old"


async def call_cached(cache: Cache, key: str) -> None:
    @cache.cached(key.replace("42", "{number}"), ttl=SHORT)
    async def function(number: int) -> str:
        return "old"

    assert await function(42) == "old"


async def get_or_load(cache: Cache, key: str) -> object:
    return await cache.get_or_load(key, lambda: "new")


async def get(cache: Cache, key: str) -> object:
    return await cache.get(key, default="new")


async def get_many(cache: Cache, key: str) -> object:
    return (await cache.get_many([key])).get(key, "new")


async def get_or_load_many(cache: Cache, key: str) -> object:
    return (await cache.get_many([key, "user:8:profile"], lambda keys: dict.fromkeys(keys, "new")))[key]


@pytest.mark.parametrize("read", [get_or_load, get, get_many, get_or_load_many])
@pytest.mark.parametrize(
    "write",
    [get_load_set, load, load_many, load_nothing, replace_value, call_cached],
    ids=lambda f: f.__name__,
)
async def test_a_value_with_a_shorter_ttl_is_gone_everywhere(
    valkey: EmbeddedValkey, writer: WorkerDouble, write: Write, read: Read
) -> None:
    key = UNRULED if writer.rules is KEEPING else RULED
    async with (
        attached_cache(valkey.url, default_ttl=3600) as one,
        attached_cache(valkey.url, default_ttl=3600) as other,
    ):
        await write(one, key)
        for _ in range(3):  # from Redis, then with its life, then from memory
            await read(other, key)
        for cache in (one, other):
            near = cache.inspect().local.near.peek(key)
            assert near is not None or cache is one
            assert near is None or near.expires - cache._now() <= SHORT


async def test_memory_gives_it_up_when_redis_does(valkey: EmbeddedValkey, writer: WorkerDouble) -> None:
    async with attached_cache(valkey.url) as one, attached_cache(valkey.url) as other:
        await one.get(RULED)
        await one.set(RULED, "old", ttl=1)
        seen = [await other.get(RULED, default="new") for _ in range(3)]
        assert set(seen) <= {"old", "new"}

        async def expired() -> bool:
            return not await writer.redis.exists(RULED)

        await eventually(expired)
        await eventually(lambda: other.inspect().local.near.read(RULED) is None)
        assert await other.get(RULED, default="new") == "new"


async def test_two_processes_with_their_own_default_ttl(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    async with (
        attached_cache(valkey.url, default_ttl=SHORT) as one,
        attached_cache(valkey.url, default_ttl=3600) as other,
    ):
        await one.get_or_load(UNRULED, lambda: "old")
        for _ in range(3):
            assert await other.get_or_load(UNRULED, lambda: "new") == "old"
        near = other.inspect().local.near.peek(UNRULED)
        assert near is not None
        assert near.expires - other._now() <= SHORT


async def test_a_default_ttl_that_no_other_process_knows_binds_only_its_own(
    valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    async with attached_cache(valkey.url) as one, attached_cache(valkey.url, default_ttl=3600) as other:
        await one.get_or_load(UNRULED, lambda: "old")
        assert await other.get_or_load(UNRULED, lambda: "new") == "old"
        near = other.inspect().local.near.peek(UNRULED)
        assert near is not None
        assert near.expires - other._now() <= 60


async def test_the_second_read_keeps_it_in_memory_and_none_costs_a_further_trip(
    cache: Cache, valkey: EmbeddedValkey
) -> None:
    await cache.get_or_load(RULED, lambda: "value", ttl=1800)
    async with attached_cache(valkey.url) as other:
        tier = other.inspect().tier
        assert isinstance(tier, RedisTier)
        for trips in (1, 1, 0, 0):
            before = tier.multiplexer.batches
            assert await other.get_or_load(RULED, lambda: "unused") == "value"
            assert tier.multiplexer.batches - before == trips
        near = other.inspect().local.near.peek(RULED)
        assert near is not None
        assert near.expires - other._now() <= 1800


async def test_a_value_that_lives_as_its_rule_says_is_kept_at_once(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    await cache.get_or_load(RULED, lambda: "value")
    assert await double.redis.get(RULED) == b'"value"'
    async with attached_cache(valkey.url) as other:
        for _ in range(2):
            assert await other.get_or_load(RULED, lambda: "unused") == "value"
        assert other.counters().near_hits == 1


@pytest.mark.parametrize(
    ("key", "ttl", "default", "negative", "value", "marked"),
    [
        (RULED, None, 60.0, None, b"1", False),
        (RULED, 3600.0, 60.0, None, b"1", False),
        (RULED, 7200.0, 60.0, None, b"1", False),
        (RULED, 2.0, 60.0, None, b"1", True),
        (RULED, None, 60.0, 5.0, b"null", True),
        (UNRULED, None, 60.0, None, b"1", False),
        (UNRULED, None, 10.0, None, b"1", True),
        (UNRULED, 2.0, 60.0, None, b"1", True),
    ],
)
def test_a_refresh_marks_what_lives_shorter(
    key: str, ttl: float | None, default: float, negative: float | None, value: bytes, marked: bool
) -> None:
    ttls = Ttls(RULES.ttl, default, 0.0, negative)
    spec = RefreshSpec.__new__(RefreshSpec)
    object.__setattr__(spec, "ttl", ttl)
    stored, seconds = ttls.stored(key, spec, value)
    assert orjson.loads(stored) == orjson.loads(value)
    assert stored == value + b" " * marked
    assert seconds == min(ttl or (3600.0 if key == RULED else default), negative or 1e9)

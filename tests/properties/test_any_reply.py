"""Whatever stands at a key of Redis, a read gives the database's value and nothing breaks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from servers import eventually
from unstale import Cache, RedisUnavailable
from unstale.protocol.names import LEASE, SOFT_LEASE
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, attached_cache, redis_client

pytestmark = pytest.mark.leaves_keys("(?s:user:.*)")

TEXTS = st.binary(max_size=40) | st.sampled_from(
    [b"", b"\x00", LEASE, LEASE + b"x", SOFT_LEASE, b"null", b"nul", b"{", b'{"a":1}x', b"1e999", b"\xff\xfe"]
)
OTHER_TYPES = st.sampled_from(["list", "set", "hash", "zset", "stream"])
QUICK = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """PINGs often, so that nobody waits for them."""
    monkeypatch.setattr("unstale.freshness.subscriber.PING_INTERVAL", 0.05)
    monkeypatch.setattr("unstale.freshness.subscriber.LAST_PAUSE", 0.1)
    monkeypatch.setattr("unstale.redis_tier.multiplexer.LAST_PAUSE", 0.1)


async def put(redis: Redis, key: str, what: bytes | str) -> None:
    """A string of these bytes, or a value of another type."""
    await redis.unlink(key)
    commands: dict[str, tuple[Any, ...]] = {
        "list": ("RPUSH", key, "x"),
        "set": ("SADD", key, "x"),
        "hash": ("HSET", key, "x", "y"),
        "zset": ("ZADD", key, 1, "x"),
        "stream": ("XADD", key, "1-1", "x", "y"),
    }
    command = ("SET", key, what) if isinstance(what, bytes) else commands[what]
    await redis.execute_command(*command)


def readable(what: bytes | str) -> Any:
    """The value that these bytes are, or the loader's."""
    if isinstance(what, bytes) and not what.startswith(b"\x00"):
        try:
            return orjson.loads(what)
        except orjson.JSONDecodeError:
            pass
    return "loaded"


def thawed(answer: Any) -> Any:
    """What ``shared=True`` froze, as JSON has it."""
    if isinstance(answer, Mapping):
        return {name: thawed(value) for name, value in answer.items()}
    return [thawed(value) for value in answer] if isinstance(answer, tuple | list) else answer


@QUICK
@given(stands=st.lists(TEXTS | OTHER_TYPES, min_size=3, max_size=3))
async def test_whatever_stands_at_a_users_key(stands: list[bytes | str], valkey: EmbeddedValkey) -> None:
    async with redis_client(valkey.url) as redis:
        worker = WorkerDouble(redis)
        await worker.recover()
        async with worker.beating(), attached_cache(valkey.url, lease_ttl=0.2) as cache:
            for number, what in enumerate(stands):
                key = f"user:{number}:profile"
                await put(redis, key, what)
                answers = await asyncio.gather(
                    cache.get_or_load(key, lambda: "loaded"),
                    cache.get_or_load(key, lambda: "loaded", shared=True),
                    return_exceptions=True,
                )
                assert all(thawed(answer) == readable(what) for answer in answers), (what, answers)
                await cache.delete(key)
                assert await cache.get(key) is None
                # Once it was invalidated, whatever stood there is gone for good.
                assert await cache.get_or_load(key, lambda: "again") == "again"


FIELDS = st.dictionaries(
    st.sampled_from(["epoch", "run", "position", "last", "need_lsn", "primary_until", "database", "rules"]),
    st.binary(max_size=12) | st.sampled_from([b"", b"-1", b"9" * 20, b"1e3", b"0/1", b"\xff", b'a"b']),
    min_size=1,
    max_size=3,
)
OWN = st.tuples(st.sampled_from(["state", "log", "rules"]), TEXTS | OTHER_TYPES)


@QUICK
@given(fields=st.lists(FIELDS, max_size=2), own=st.lists(OWN, max_size=2), entry=st.binary(max_size=20))
async def test_whatever_stands_at_unstales_own_keys(
    fields: list[dict[str, bytes]], own: list[tuple[str, bytes | str]], entry: bytes, valkey: EmbeddedValkey
) -> None:
    """An agent that meets it loads for itself; once a worker has made the keys anew, it is attached again."""
    key, database = "user:1:profile", 1

    def load() -> int:
        return database

    async with redis_client(valkey.url) as redis:
        await redis.flushall()
        worker = WorkerDouble(redis)
        await worker.recover()
        async with attached_while(worker, valkey.url) as cache:
            assert await cache.get_or_load(key, load) == 1
            await worker.grow_old()
            for garbage in fields:
                await redis.hset(worker.names.state, mapping=garbage)  # type: ignore[arg-type]  # bytes are fine
            await redis.xadd(worker.names.log, {"m": entry})
            for name, what in own:
                await put(redis, getattr(worker.names, name), what)
            await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # so that it looks at all of them
            await redis.unlink(key)
            database = 2
            await eventually(lambda: not cache.attached)
            for _ in range(3):
                assert await cache.get_or_load(key, load) == 2
                with contextlib.suppress(RedisUnavailable):  # what stands there may make it impossible
                    await cache.delete(key)
            await redis.unlink(worker.names.state, worker.names.log, worker.names.rules)
            await worker.recover()
            async with worker.beating():
                await eventually(lambda: cache.attached)
            assert await cache.get_or_load(key, load) == 2


@contextlib.asynccontextmanager
async def attached_while(worker: WorkerDouble, url: str) -> AsyncIterator[Cache]:
    """A cache that was attached, and hears of no watermark any more."""
    async with contextlib.AsyncExitStack() as stack:
        async with worker.beating():
            cache = await stack.enter_async_context(attached_cache(url, redis_timeout=0.5))
        yield cache

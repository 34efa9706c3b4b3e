"""Whatever stands at a key of Redis, a read gives the database's value and nothing breaks."""

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from unstale.names import LEASE, SOFT_LEASE
from unstale_worker.embedded import EmbeddedValkey
from worker_double import WorkerDouble, attached_cache, redis_client

pytestmark = pytest.mark.leaves_keys("(?s:user:.*)")

TEXTS = st.binary(max_size=40) | st.sampled_from(
    [b"", b"\x00", LEASE, LEASE + b"x", SOFT_LEASE, b"null", b"nul", b"{", b'{"a":1}x', b"1e999", b"\xff\xfe"]
)
OTHER_TYPES = st.sampled_from(["list", "set", "hash", "zset", "stream"])
QUICK = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


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
                assert all(answer == readable(what) for answer in answers), (what, answers)
                assert await cache.delete(key)
                assert await cache.get(key) is None
                # Once it was invalidated, whatever stood there is gone for good.
                assert await cache.get_or_load(key, lambda: "again") == "again"

"""What encryption and compression cost: a Redis hit of a value that is stored encrypted, and of a plain one.

The value is a prompt's worth of memories, about 4 kB of JSON. Both caches read the same server in turns, so a
noisy machine disturbs both alike.
"""

import asyncio
import base64
import os
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
from hits import REDIS_CALLS, begin_history, keep_fresh, took
from redis.asyncio import Redis

from unstale import Cache
from unstale.protocol.names import Names
from unstale.settings import AgentSettings
from unstale_worker.dev_servers import EmbeddedValkey

TEXT: Final = (
    "Ada likes walks by the river in the evening, and told about a concert of her sister in March. She has "
    "begun to learn Portuguese, and wants to be asked about it. Work is busy: a release is due on Friday."
)
WORDS: Final = TEXT.split()
MEMORIES: Final = [
    {
        "id": number,
        "content": " ".join(WORDS[number % 7 :] + WORDS[: number % 5]),
        "importance": number / 20,
        "created_at": f"2026-0{1 + number % 9}-17T09:30:12.482913+00:00",
    }
    for number in range(14)
]


@asynccontextmanager
async def reader(url: str, key: str, **settings: Any) -> AsyncIterator[Cache]:
    """Open a cache that has stored the value."""
    async with Cache(AgentSettings.from_env(env_file=None, redis_url=url, **settings)) as cache:
        for _ in range(6_000):
            if cache.attached:
                break
            await asyncio.sleep(0.01)
        await cache.get_or_load(key, lambda: MEMORIES)
        yield cache


async def measure(repeats: int) -> dict[str, Any]:
    """Ratios of time and CPU, and the share of the bytes that are left."""
    key = base64.b64encode(os.urandom(32)).decode()
    encrypting = {"value_keys": f"bench:{key}", "compress_above": 1_000}
    plain_key, sealed_key = "user:1:profile", "user:2:profile"
    async with EmbeddedValkey() as server, asyncio.TaskGroup() as tasks:
        redis: Redis = Redis.from_url(server.url)
        names = Names()
        await begin_history(redis, names)
        await redis.hset(names.state, "run", (await redis.info("replication"))["master_replid"])
        voice = tasks.create_task(keep_fresh(redis, names))
        async with (
            reader(server.url, plain_key) as plain,
            reader(server.url, sealed_key, **encrypting) as sealed,
        ):
            times: dict[str, list[tuple[float, float]]] = {plain_key: [], sealed_key: []}
            for _ in range(repeats):
                for cache, name in ((plain, plain_key), (sealed, sealed_key)):
                    times[name].append(await took(hits(cache, name), REDIS_CALLS))
            if plain.counters().loads + sealed.counters().loads != 2:
                raise SystemExit("a read was no hit")
        stored: Any = await redis.get(sealed_key)
        voice.cancel()
        await redis.aclose()
    pairs = list(zip(times[sealed_key], times[plain_key], strict=True))
    return {
        "redis_hit_us": round(statistics.median(a[0] for a, _ in pairs), 1),
        "plain_redis_hit_us": round(statistics.median(b[0] for _, b in pairs), 1),
        "redis_hit_ratio": round(statistics.median(a[0] / b[0] for a, b in pairs), 3),
        "redis_hit_cpu_ratio": round(statistics.median(a[1] / b[1] for a, b in pairs), 3),
        "compressed_share": round(len(stored) / len(orjson.dumps(MEMORIES)), 3),
        "value_bytes": len(orjson.dumps(MEMORIES)),
    }


async def hits(cache: Cache, key: str) -> None:
    """Redis hits one after the other."""
    drop = cache.inspect().local.near.drop  # the near cache would answer otherwise
    for _ in range(REDIS_CALLS):
        drop(key)
        await cache.get_or_load(key, _never)


async def _never() -> object:
    raise AssertionError("a hit calls no loader")

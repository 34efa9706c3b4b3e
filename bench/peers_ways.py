"""The ways to cache that bench/peers.py compares, and how each is configured."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    title: str
    how: str
    """Configuration in words, for the output and the docs."""
    table: str = "profiles_plain"
    told: str = "nobody"
    """What hears of changes: nobody, the listener, each agent, or the worker."""
    prefix: str = ""
    """Put before a key by the library; the listener has to know it."""
    in_redis: bool = True
    in_memory: bool = False


_DEL: Final = (
    "A row trigger calls `pg_notify` with the key; a listener of 20 lines UNLINKs it. Values in Redis "
    "have a TTL of 60 s."
)

WAYS: Final = (
    Way("ttl", "TTL in Redis (redis-py)", "`redis.asyncio`, GET, else SET with `ex=2`, JSON by orjson."),
    Way(
        "aiocache", "aiocache, TTL",
        "`@cached(ttl=2, cache=Cache.REDIS, serializer=JsonSerializer())`, with a `key_builder`.",
    ),
    Way(
        "cashews", "cashews, TTL",
        '`cache.setup("redis://…")` and `@cache(ttl=2, key="user:{number}:profile")`; pickle, its default.',
    ),
    Way(
        "notify_del", "NOTIFY, then DEL (redis-py)", f"{_DEL} Agents: `redis.asyncio`, GET, else SET.",
        table="profiles_notify", told="listener",
    ),
    Way(
        "cashews_client_side", "cashews `client_side`, with NOTIFY and DEL",
        f"{_DEL} Agents: `cache.setup(…, client_side=True, protocol=2)`. With redis-py 8's own default, "
        "RESP3, no invalidation arrives.",
        table="profiles_notify", told="listener", prefix="cashews:", in_memory=True,
    ),
    Way(
        "redis_py", "redis-py `CacheConfig`, with NOTIFY and DEL",
        f"{_DEL} Agents: `Redis(protocol=3, cache_config=CacheConfig())`. Only the blocking client has it. "
        "It is called without a thread, which is its fastest use.",
        table="profiles_notify", told="listener", in_memory=True,
    ),
    Way(
        "glide", "Valkey GLIDE's client-side cache, with NOTIFY and DEL",
        f"{_DEL} Agents: `ClientSideCache.create(max_cache_kb=65536, entry_ttl_ms=60000, "
        "server_assisted=True)`.",
        table="profiles_notify", told="listener", in_memory=True,
    ),
    Way(
        "pgcachewatch", "PGCacheWatch",
        "`pgcachewatch install --commit`, and `@cache(strategies.Greedy(listener))`. No Redis: each agent "
        "listens and keeps its own results. Any change of the table drops all of them. "
        "An agent whose listening session has ended caches nothing any more.",
        table="profiles_pgcachewatch", told="each agent", in_redis=False, in_memory=True,
    ),
    Way(
        "unstale", "unstale",
        "Defaults: near cache, Redis, a worker with one rule. `get_or_load(key, load, ttl=60)`.",
        table="profiles", told="worker", in_memory=True,
    ),
)  # fmt: skip

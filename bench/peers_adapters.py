"""Each way to cache a profile, configured as its own documentation says. One class a way.

Runs in two environments: the peers' own, and the project's for unstale. So nothing is imported before it is
used, and only by name: the project does not depend on its peers.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import orjson

Profile = dict[str, Any]
Load = Callable[[int], Awaitable[Profile]]

SHORT_TTL = 2
"""Seconds, for the ways that rely on a TTL alone."""
LONG_TTL = 60
"""Seconds, for the ways that are told of changes: a safety net that no run reaches."""
CONNECTIONS = 100
"""To Redis, for the libraries that open one for each concurrent command: as many as readers at once."""


def name_of(number: int) -> str:
    return f"user:{number}:profile"


class Peer(Protocol):
    async def open(self, redis_url: str, database_url: str, load: Load) -> None: ...
    async def get(self, number: int) -> Profile: ...
    async def close(self) -> None: ...


class _Closing:
    def __init__(self) -> None:
        self._cleanup = AsyncExitStack()

    async def close(self) -> None:
        await self._cleanup.aclose()


class RedisTtl(_Closing):
    """redis-py: GET, else load and SET with an expiry."""

    def __init__(self, ttl: int) -> None:
        super().__init__()
        self._ttl = ttl

    async def open(self, redis_url: str, database_url: str, load: Load) -> None:
        self._load = load
        redis = import_module("redis.asyncio")
        pool = redis.BlockingConnectionPool.from_url(redis_url, max_connections=CONNECTIONS, timeout=None)
        self._redis = redis.Redis.from_pool(pool)
        self._cleanup.push_async_callback(self._redis.aclose)
        await self._redis.ping()

    async def get(self, number: int) -> Profile:
        name = name_of(number)
        stored = await self._redis.get(name)
        if stored is not None:
            known: Profile = orjson.loads(stored)
            return known
        value = await self._load(number)
        await self._redis.set(name, orjson.dumps(value), ex=self._ttl)
        return value


class RedisPyTracking(_Closing):
    """redis-py's client-side cache. Only its blocking client has one; it is called without a thread."""

    async def open(self, redis_url: str, database_url: str, load: Load) -> None:
        self._load = load
        config = import_module("redis.cache").CacheConfig()
        self._redis = import_module("redis").Redis.from_url(redis_url, protocol=3, cache_config=config)
        self._cleanup.callback(self._redis.close)
        self._redis.ping()

    async def get(self, number: int) -> Profile:
        name = name_of(number)
        stored = self._redis.get(name)
        if stored is not None:
            known: Profile = orjson.loads(stored)
            return known
        value = await self._load(number)
        self._redis.set(name, orjson.dumps(value), ex=LONG_TTL)
        return value


class Glide(_Closing):
    """Valkey GLIDE with its client-side cache, told of changes by the server."""

    async def open(self, redis_url: str, database_url: str, load: Load) -> None:
        self._load = load
        glide, url = import_module("glide"), urlsplit(redis_url)
        password = url.password
        configuration = glide.GlideClientConfiguration(
            [glide.NodeAddress(url.hostname, url.port)],
            credentials=glide.ServerCredentials(password=password) if password else None,
            request_timeout=5_000,
            client_side_cache=glide.ClientSideCache.create(
                max_cache_kb=65_536, entry_ttl_ms=LONG_TTL * 1000, server_assisted=True
            ),
        )
        self._expiry = glide.ExpirySet(glide.ExpiryType.SEC, LONG_TTL)
        self._client = await glide.GlideClient.create(configuration)
        self._cleanup.push_async_callback(self._client.close)

    async def get(self, number: int) -> Profile:
        name = name_of(number)
        stored = await self._client.get(name)
        if stored is not None:
            known: Profile = orjson.loads(stored)
            return known
        value = await self._load(number)
        await self._client.set(name, orjson.dumps(value), expiry=self._expiry)
        return value


class Cashews(_Closing):
    """cashews: its decorator, in Redis, with or without its client-side cache."""

    def __init__(self, *, client_side: bool) -> None:
        super().__init__()
        self._client_side = client_side

    async def open(self, redis_url: str, database_url: str, load: Load) -> None:
        cache = import_module("cashews").Cache()
        if self._client_side:
            # redis-py 8 speaks RESP3 unless told otherwise, and then no invalidation reaches cashews 7.6.
            cache.setup(redis_url, client_side=True, protocol=2)
        else:
            cache.setup(redis_url)
        await cache.init()
        self._cleanup.push_async_callback(cache.close)
        ttl = LONG_TTL if self._client_side else SHORT_TTL

        @cache(ttl=ttl, key="user:{number}:profile")  # type: ignore[untyped-decorator]
        async def profile(number: int) -> Profile:
            return await load(number)

        self._profile: Load = profile

    async def get(self, number: int) -> Profile:
        return await self._profile(number)


class Aiocache(_Closing):
    """aiocache: its decorator, in Redis, with its JSON serializer."""

    async def open(self, redis_url: str, database_url: str, load: Load) -> None:
        aiocache, serializers, url = (
            import_module("aiocache"), import_module("aiocache.serializers"), urlsplit(redis_url)
        )  # fmt: skip

        @aiocache.cached(  # type: ignore[untyped-decorator]
            ttl=SHORT_TTL,
            cache=aiocache.Cache.REDIS,
            key_builder=lambda function, number: name_of(number),
            serializer=serializers.JsonSerializer(),
            endpoint=url.hostname,
            port=url.port,
            password=url.password,
            pool_max_size=2 * CONNECTIONS,
        )
        async def profile(number: int) -> Profile:
            return await load(number)

        self._profile: Load = profile
        self._cleanup.push_async_callback(profile.cache.close)

    async def get(self, number: int) -> Profile:
        return await self._profile(number)


class PgCacheWatch(_Closing):
    """PGCacheWatch with its strategy Greedy: any change of the table clears the function's results."""

    async def open(self, redis_url: str, database_url: str, load: Load) -> None:
        for noisy in ("pgcachewatch", "root"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL + 1)
        listeners, strategies = (
            import_module("pgcachewatch.listeners"),
            import_module("pgcachewatch.strategies"),
        )
        listener = listeners.PGEventQueue()
        connection = await asyncpg.connect(database_url, server_settings={"application_name": "told"})
        self._cleanup.push_async_callback(connection.close, timeout=5)
        await listener.connect(connection)

        @import_module("pgcachewatch.decorators").cache(strategies.Greedy(listener=listener))  # type: ignore[untyped-decorator]
        async def profile(number: int) -> Profile:
            return await load(number)

        self._profile: Load = profile

    async def get(self, number: int) -> Profile:
        return await self._profile(number)


class Unstale(_Closing):
    """unstale with its defaults: near cache, Redis, a worker."""

    async def open(self, redis_url: str, database_url: str, load: Load) -> None:
        self._load = load
        cache = import_module("unstale").Cache.from_env(env_file=None, redis_url=redis_url)
        self._cache = await self._cleanup.enter_async_context(cache)
        if not self._cache.attached:
            raise SystemExit("the cache did not attach: it would keep nothing in memory")

    async def get(self, number: int) -> Profile:
        value: Profile = await self._cache.get_or_load(
            name_of(number), lambda: self._load(number), ttl=LONG_TTL
        )
        return value


def adapter(name: str) -> Peer:
    """The way to cache of that name, not opened yet."""
    for variable in [each for each in os.environ if each.startswith("UNSTALE_")]:
        del os.environ[variable]
    made: dict[str, Callable[[], Peer]] = {
        "ttl": lambda: RedisTtl(SHORT_TTL),
        "notify_del": lambda: RedisTtl(LONG_TTL),
        "aiocache": Aiocache,
        "cashews": lambda: Cashews(client_side=False),
        "cashews_client_side": lambda: Cashews(client_side=True),
        "redis_py": RedisPyTracking,
        "glide": Glide,
        "pgcachewatch": PgCacheWatch,
        "unstale": Unstale,
    }
    return made[name]()

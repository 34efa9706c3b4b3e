"""Two caches as people write them, which the checker must catch: no lease, and no replay.

Both are kept up to date by the real worker, so nothing but the named defence is missing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, Protocol, cast

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from unstale import Cache
from unstale.near_cache.in_flight import InFlightReads
from unstale.protocol.globs import matches
from unstale.protocol.messages import Invalidation, decode
from unstale.protocol.names import Names

Loader = Callable[[], Awaitable[Any]]


class Subject(Protocol):
    """What is judged: unstale's cache, or one of the naive ones."""

    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        max_staleness: float | None = None,
        tags: Collection[str] | None = None,
    ) -> Any:
        """The value of ``key``."""
        ...


class CacheAside:
    """Cache-aside and delete: look, load, store; who changes a row deletes the key. No lease."""

    def __init__(self, redis_url: str) -> None:
        self._redis: Redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0), socket_timeout=1)

    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        max_staleness: float | None = None,
        tags: Collection[str] | None = None,
    ) -> Any:
        """The value in Redis, else the loaded one, which is stored whatever happened meanwhile."""
        with contextlib.suppress(RedisError, OSError):
            data = await self._redis.get(key)
            if data is not None and data[:1] != b"\x00":
                return orjson.loads(data)
        value = await loader()
        with contextlib.suppress(RedisError, OSError):
            await self._redis.set(key, orjson.dumps(value))
        return value

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()


class Deaf:
    """A near cache that drops what pub/sub tells it to, over the Redis tier of a sound cache. No replay.

    It marks its loads as the real one does; only what is said while nobody listens is lost on it.
    """

    def __init__(self, cache: Cache, redis_url: str) -> None:
        self._cache = cache
        self._redis: Redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
        self._near: dict[str, Any] = {}
        self._reads = InFlightReads()
        self._task: asyncio.Task[None] | None = None
        self.subscribed = asyncio.Event()
        """Set while it listens."""

    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        max_staleness: float | None = None,
        tags: Collection[str] | None = None,
    ) -> Any:
        """From memory if it is there."""
        if key in self._near:
            return self._near[key]
        read = self._reads.open(key)
        try:
            value = await self._cache.get_or_load(key, loader, max_staleness=max_staleness)
        finally:
            self._reads.close(read)
        if read.valid and self.subscribed.is_set():
            self._near[key] = value
        return value

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._redis.aclose()

    async def _listen(self) -> None:
        while True:
            pubsub = self._redis.pubsub()
            try:
                await pubsub.subscribe(Names().channel)
                while True:
                    item = await pubsub.get_message(timeout=None)
                    if item is not None and item["type"] == "subscribe":
                        self.subscribed.set()
                    elif item is not None:
                        self._hear(cast(bytes, item["data"]))
            except (RedisError, OSError):
                self.subscribed.clear()
                await asyncio.sleep(0.05)
            finally:
                await pubsub.aclose()

    def _hear(self, payload: bytes) -> None:
        message = decode(payload)
        if not isinstance(message, Invalidation):
            return
        for key in message.keys:
            self._near.pop(key, None)
            self._reads.invalidate(key)
        for pattern in message.patterns:
            for key in [key for key in self._near if matches(pattern, key)]:
                del self._near[key]
        self._reads.invalidate_matching(message.patterns)


@contextlib.asynccontextmanager
async def subject(kind: str, cache: Cache, redis_url: str) -> AsyncIterator[Subject]:
    """``unstale``: ``cache`` itself; ``aside`` and ``deaf``: the naive ones. Raises ValueError."""
    match kind:
        case "unstale":
            yield cache
        case "aside":
            aside = CacheAside(redis_url)
            try:
                yield aside
            finally:
                await aside.close()
        case "deaf":
            deaf = Deaf(cache, redis_url)
            deaf.start()
            try:
                await deaf.subscribed.wait()
                yield deaf
            finally:
                await deaf.close()
        case _:
            raise ValueError(f"{kind!r} is not one of unstale, aside, deaf")

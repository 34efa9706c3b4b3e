"""The interface of an existing ``redis_cache`` module: one object for a process, opened on first use."""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self

from unstale.compat.per_loop import PerLoop
from unstale.compat.text_stats import text_stats
from unstale.errors import RedisUnavailable
from unstale.locks import LOCK_SECONDS, Lock
from unstale.protocol.durations import Duration

if TYPE_CHECKING:
    from unstale.cache import Cache
    from unstale.reading.loader import Loader
    from unstale.settings import AgentSettings


class RedisCache:
    """A `Cache` that needs no ``async with``: it opens on first use, in each event loop.

    Example:
        >>> from unstale import redis_cache
        >>> await redis_cache.set("user:42:state", {"stage": 3}, ttl=10)
        >>> await redis_cache.get("user:42:state")
        {'stage': 3}

    Without ``settings``, the environment and ``.env`` are read on first use. Call `close` when the process
    ends; ``asyncio.run`` also closes it when it ends. After a fork the child opens its own.
    """

    def __init__(self, settings: "AgentSettings | None" = None) -> None:
        self._settings = settings
        self._caches = PerLoop(self._open, name="redis_cache")

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Return a cache with the settings of the environment and ``.env``, read now; arguments beat them."""
        from unstale.settings.variables import agent_settings

        return cls(agent_settings(**overrides))

    async def cache(self) -> "Cache":
        """Return the `Cache` of this event loop, which can do more."""
        return await self._caches.get()

    async def get(self, key: str) -> Any:
        """Return the cached value, or None. See `Cache.get`."""
        return await (await self._caches.get()).get(key)

    async def set(self, key: str, value: object, ttl: Duration | None = None) -> bool:
        """Store a value for ``ttl`` seconds; return True if Redis has it. See `Cache.set`."""
        return await (await self._caches.get()).set(key, value, ttl)

    async def delete(self, key: str, *keys: str) -> bool:
        """Invalidate keys here, in Redis and in every instance. See `Cache.delete`.

        Return False if Redis did not confirm; the keys are then gone in this process only.
        """
        try:
            await (await self._caches.get()).delete(key, *keys)
        except RedisUnavailable:
            return False
        return True

    async def invalidate_pattern(self, pattern: str) -> int:
        """Invalidate every key that the glob matches; return how many Redis held.

        Return 0 if Redis did not confirm; the keys are then gone in this process only.
        """
        try:
            return await (await self._caches.get()).invalidate_pattern(pattern)
        except RedisUnavailable:
            return 0

    async def get_or_load(self, key: str, loader: "Loader", *, ttl: Duration | None = None) -> Any:
        """Return the cached value, or load it once for all callers. See `Cache.get_or_load`."""
        return await (await self._caches.get()).get_or_load(key, loader, ttl=ttl)

    @contextlib.asynccontextmanager
    async def lock(
        self, name: str, *, ttl: Duration = LOCK_SECONDS, timeout: Duration | None = 10.0
    ) -> AsyncIterator[Lock]:
        """Hold a lock between all instances. See `Cache.lock`."""
        async with (await self._caches.get()).lock(name, ttl=ttl, timeout=timeout) as lock:
            yield lock

    async def get_stats(self) -> dict[str, object]:
        """Return the fields of `Cache.get_stats`, with ``hit_rate`` and ``redis_memory`` as text."""
        return text_stats(await (await self._caches.get()).get_stats())

    async def close(self) -> None:
        """Close the caches of all event loops; the next use opens one again."""
        await self._caches.close()

    async def __aenter__(self) -> Self:
        await self._caches.get()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    def _open(self) -> "Cache":
        from unstale.cache import Cache

        return Cache.from_env() if self._settings is None else Cache(self._settings)

    def __repr__(self) -> str:
        return f"<RedisCache open in {len(self._caches.opened())} event loops>"


redis_cache = RedisCache()
"""The object that existing code calls; its settings come from the environment on first use."""

"""The seven tools an LLM agent may call, bound to one user."""

import contextlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from unstale.companion.tools.call_limits import CHANGING, RENEWING, SCANNING, limits_of
from unstale.companion.tools.tool import Result, Tool, ToolCall, parsed
from unstale.companion.tools.user_scope import UserKeys
from unstale.compat.text_stats import text_stats
from unstale.errors import CacheClosed, PoolClosed, RedisUnavailable, ToolError, UnstaleError
from unstale.freshness.subscriptions import may_overlap
from unstale.protocol.messages import Invalidation
from unstale.protocol.names import LogId

if TYPE_CHECKING:
    from unstale.cache import Cache
    from unstale.companion.pools import ConnectionPool
    from unstale.compat.redis_cache import RedisCache
    from unstale.reading.loader import Loader

__all__ = ["Result", "Tool", "ToolCall", "Tools"]

logger = logging.getLogger("unstale")

MOST_ENTRIES: Final = 20
"""Log entries read for the last changes."""
MOST_CHANGES: Final = 5
"""Most changes a model is shown."""
MOST_KEYS: Final = 5
"""Most keys of one change; a model's context is small."""


class Tools:
    """The tools of one user's session.

    Example:
        >>> tools = Tools(cache, pool, user_id=42, loaders={"profile": lambda: load_profile(42)})
        >>> answer = await openai.chat.completions.create(..., tools=tools.openai())
        >>> messages += [answer.choices[0].message, *await tools.answer(answer.choices[0].message.tool_calls)]

    A model reaches only the keys ``user:{user_id}:…``. Take ``user_id`` from your session. How often it may
    call a tool is limited for each user, over all tools on the same cache.
    """

    def __init__(
        self,
        cache: "Cache | RedisCache",
        pool: "ConnectionPool | None" = None,
        *,
        user_id: object,
        loaders: "Mapping[str, Loader] | None" = None,
    ) -> None:
        """``loaders`` by the last part of the key (``profile``); `refreshCache` calls them."""
        self._cache = cache
        self._pool = pool
        self._keys = UserKeys(user_id)
        self._limits = limits_of(cache)
        self._loaders = dict(loaders or {})
        tools = [
            *(self._pool_tools() if pool is not None else ()),
            Tool(
                "getRedisCacheStats",
                "Shows whether the cache works: hit rate, memory, connection, staleness in seconds.",
                None,
                True,
                self.get_redis_cache_stats,
            ),
            Tool(
                "clearUserCache",
                "Removes everything that is cached for the current user, on every instance.",
                None,
                False,
                self.clear_user_cache,
                SCANNING,
            ),
            Tool(
                "invalidateCache",
                "Removes those of the current user's cached values whose names match a pattern.",
                ("pattern", "Names within the current user's keys: 'profile', 'greeting*', or '*' for all."),
                False,
                self.invalidate_cache,
                SCANNING,
            ),
            Tool(
                "getInvalidationStats",
                "Shows how far the cache is behind the database, and the current user's last changes.",
                None,
                True,
                self.get_invalidation_stats,
            ),
            Tool(
                "refreshCache",
                "Reloads one of the current user's cached values from its source.",
                ("key", "Name within the current user's keys, such as 'profile'."),
                False,
                self.refresh_cache,
                CHANGING,
            ),
        ]
        self._tools = {tool.name: tool for tool in tools}

    def _pool_tools(self) -> Iterable[Tool]:
        yield Tool(
            "getConnectionPoolStats",
            "Shows the health of the connections to OpenAI, Supabase, Postgres and HTTP servers.",
            None,
            True,
            self.get_connection_pool_stats,
        )
        yield Tool(
            "cleanupConnectionPool",
            "Opens fresh connections and clears error counts; requests under way are not disturbed. "
            "Use it when getConnectionPoolStats says 'degraded'.",
            None,
            False,
            self.cleanup_connection_pool,
            RENEWING,
        )

    # --- the tools ------------------------------------------------------------------------------

    async def get_connection_pool_stats(self) -> Result:
        """Return the pool's stats."""
        return await self._require_pool().get_stats()

    async def cleanup_connection_pool(self) -> Result:
        """Renew the pool's connections."""
        pool = self._require_pool()
        await pool.cleanup()
        return {"cleaned": True, "status": (await pool.get_stats())["status"]}

    async def get_redis_cache_stats(self) -> Result:
        """Return the part of the cache's stats that a model can use."""
        stats = text_stats(await self._cache.get_stats())
        wanted = ("enabled", "connected", "hit_rate", "cache_hits", "cache_misses", "redis_memory", "status",
                  "near_hits", "staleness")  # fmt: skip
        return {name: stats[name] for name in wanted}

    async def clear_user_cache(self) -> Result:
        """Remove all values of this user."""
        return await self._invalidate(self._keys.everything)

    async def invalidate_cache(self, pattern: str) -> Result:
        """Remove the values of this user whose keys match ``pattern``."""
        return await self._invalidate(self._keys.pattern(pattern))

    async def get_invalidation_stats(self) -> Result:
        """Return lag, watermark, counters, and this user's last changes."""
        cache = await self._opened()
        stats = await cache.get_stats()
        return {
            "status": stats["status"],
            "lag_seconds": _rounded(cache.staleness),
            "watermark_age_seconds": _rounded(stats["watermark_age"]),
            "log_id": stats["last"],
            "invalidations": stats["invalidations"],
            "replays": stats["replays"],
            "flushes": stats["flushes"],
            "lost_invalidations": stats["lost_invalidations"],
            "audited": stats["audited"],
            "audit_mismatches": stats["audit_mismatches"],
            "last_changes": await self._last_changes(cache),
        }

    async def refresh_cache(self, key: str) -> Result:
        """Invalidate ``key`` and, if there is a loader for it, load it again."""
        full = self._keys.key(key)
        name = self._keys.name(full) or ""
        confirmed = True
        try:
            await (await self._opened()).delete(full)
        except RedisUnavailable:
            confirmed = False
        loader = self._loaders.get(name)
        if loader is None:
            return {"key": name, "refreshed": False, "removed": True, "confirmed": confirmed,
                    "note": "It is loaded again when it is next needed."}  # fmt: skip
        try:
            value = await self._cache.get_or_load(full, loader)
        except UnstaleError:
            raise
        except Exception as error:
            logger.warning("the loader of %r failed in refreshCache", name, exc_info=True)
            raise ToolError(
                f"The old value of '{name}' is gone, but loading a new one failed ({type(error).__name__}). "
                "It is tried again when the value is next needed."
            ) from error
        return {"key": name, "refreshed": True, "found": value is not None, "confirmed": confirmed}

    # --- for the caller --------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def openai(self, *, api: Literal["chat", "responses"] = "chat") -> list[dict[str, object]]:
        """Return definitions for the OpenAI client's ``tools=``."""
        functions: list[dict[str, object]] = [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": True,
            }
            for tool in self._tools.values()
        ]
        if api == "responses":
            return [{"type": "function", **function} for function in functions]
        return [{"type": "function", "function": function} for function in functions]

    async def run(self, name: str, arguments: Mapping[str, object] | str | None = None) -> Result:
        """Call a tool; raises only `ToolError`, with a sentence for the model."""
        tool = self._tools.get(name)
        if tool is None:
            raise ToolError(f"There is no tool '{name[:40]}'. There are: {', '.join(self._tools)}.")
        try:
            self._limits.take(self._keys.prefix, tool.limit, tool=tool.name)
            return await tool.call(parsed(arguments))
        except ToolError:
            raise
        except RedisUnavailable as error:
            raise ToolError("Redis does not answer at the moment. Try again later.") from error
        except ValueError as error:  # the user's id is spelled as no key of a rule is
            logger.warning("the tool %s failed: %s", name, error)
            raise ToolError(f"{name} was refused: {error}.") from error
        except (CacheClosed, PoolClosed) as error:
            raise ToolError("The agent is shutting down; its cache and connections are closed.") from error
        except Exception as error:
            logger.exception("the tool %s failed", name)
            raise ToolError(f"{name} failed unexpectedly. Trying again is unlikely to help.") from error

    async def dispatch(self, name: str, arguments: Mapping[str, object] | str | None = None) -> str:
        """Call a tool; return result or error as JSON text for a model."""
        try:
            result = await self.run(name, arguments)
        except ToolError as error:
            result = {"error": str(error)}
        return json.dumps(result, ensure_ascii=False)

    async def answer(self, calls: Iterable[ToolCall] | None) -> list[dict[str, str]]:
        """Return the messages that answer ``message.tool_calls`` of the OpenAI client, in order."""
        return [
            {
                "role": "tool",
                "tool_call_id": call.id,
                "content": await self.dispatch(call.function.name, call.function.arguments),
            }
            for call in calls or ()
        ]

    # --- inside ---------------------------------------------------------------------------------

    def _require_pool(self) -> "ConnectionPool":
        if self._pool is None:
            raise ToolError("This agent has no connection pool.")
        return self._pool

    async def _opened(self) -> "Cache":
        from unstale.compat.redis_cache import RedisCache

        return await self._cache.cache() if isinstance(self._cache, RedisCache) else self._cache

    async def _invalidate(self, pattern: str) -> Result:
        try:
            return {"removed": await (await self._opened()).invalidate_pattern(pattern)}
        except RedisUnavailable:
            raise ToolError(
                "Redis did not confirm that the values are gone everywhere. Try again later."
            ) from None

    async def _last_changes(self, cache: "Cache") -> list[Result]:
        """Return the newest changes first, without keys and patterns of other users."""
        changes: list[Result] = []
        for entry in reversed(await self._entries(cache)):
            names = [name for key in entry.keys if (name := self._keys.name(key)) is not None]
            by_pattern = any(may_overlap(pattern, self._keys.everything) for pattern in entry.patterns)
            if names or by_pattern:
                changes.append({"log_id": entry.id, "keys": names[:MOST_KEYS], "by_pattern": by_pattern})
        return changes[:MOST_CHANGES]

    async def _entries(self, cache: "Cache") -> Sequence[Invalidation]:
        """Return the newest entries of the log, or those that this process read itself; oldest first."""
        found: list[Invalidation] = []
        for parts in [each.inspect() for each in cache.partitions]:
            if parts.log is None:
                return tuple(parts.feed.recent)
            with contextlib.suppress(UnstaleError):
                last = LogId(max(0, parts.freshness.last - MOST_ENTRIES))
                found += (await parts.log.replay(last)).entries
        return found

    def __repr__(self) -> str:
        return f"<Tools of {self._keys.prefix}*: {len(self._tools)}>"


def _rounded(seconds: object) -> float | None:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return None
    return round(seconds, 3)

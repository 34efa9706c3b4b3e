"""Keeps Redis and in-process caches true to a Supabase Postgres.

What is not in ``__all__`` may change in any release. Importing this package loads none of the clients.
"""

from typing import TYPE_CHECKING

from unstale.errors import (
    CacheClosed,
    CacheNotStarted,
    ConfigurationError,
    LoadCancelled,
    LoadCycle,
    LockLost,
    LockTimeout,
    PoolClosed,
    RedisUnavailable,
    SettingError,
    ToolError,
    UnstaleError,
    WaitTimeout,
)
from unstale.protocol.globs import escape_glob
from unstale.version import __version__ as __version__

if TYPE_CHECKING:
    from unstale.cache import Cache
    from unstale.companion.pools import ConnectionPool
    from unstale.companion.refresh_context import Refresh
    from unstale.companion.tools.tools import Tools
    from unstale.compat.redis_cache import RedisCache, redis_cache
    from unstale.freshness.invalidation_reasons import InvalidationReason
    from unstale.freshness.subscriptions import Invalidated, Reset
    from unstale.locks import Lock
    from unstale.protocol.codec import FrozenDict
    from unstale.reading.loader import Load
    from unstale.reading.stale_answers import StaleAnswer, stale_answers
    from unstale.settings import AgentSettings, PoolSettings

__all__ = [
    "AgentSettings",
    "Cache",
    "CacheClosed",
    "CacheNotStarted",
    "ConfigurationError",
    "ConnectionPool",
    "FrozenDict",
    "Invalidated",
    "InvalidationReason",
    "Load",
    "LoadCancelled",
    "LoadCycle",
    "Lock",
    "LockLost",
    "LockTimeout",
    "PoolClosed",
    "PoolSettings",
    "RedisCache",
    "RedisUnavailable",
    "Refresh",
    "Reset",
    "SettingError",
    "StaleAnswer",
    "ToolError",
    "Tools",
    "UnstaleError",
    "WaitTimeout",
    "escape_glob",
    "redis_cache",
    "stale_answers",
]

_ON_USE = {
    "AgentSettings": "settings",
    "Cache": "cache",
    "ConnectionPool": "companion.pools",
    "FrozenDict": "protocol.codec",
    "Invalidated": "freshness.subscriptions",
    "InvalidationReason": "freshness.invalidation_reasons",
    "Load": "reading.loader",
    "Lock": "locks",
    "PoolSettings": "settings",
    "RedisCache": "compat.redis_cache",
    "Refresh": "companion.refresh_context",
    "Reset": "freshness.subscriptions",
    "StaleAnswer": "reading.stale_answers",
    "Tools": "companion.tools.tools",
    "redis_cache": "compat.redis_cache",
    "stale_answers": "reading.stale_answers",
}


def __getattr__(name: str) -> object:
    if name not in _ON_USE:
        raise AttributeError(f"module 'unstale' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"unstale.{_ON_USE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

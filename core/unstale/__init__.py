"""Keeps Redis and in-process caches true to a Supabase Postgres.

What is not in ``__all__`` may change in any release. Importing this package loads none of the clients.
"""

from typing import TYPE_CHECKING

from unstale.errors import (
    CacheClosed,
    ConfigurationError,
    LoadCancelled,
    LockLost,
    LockTimeout,
    PoolClosed,
    RedisUnavailable,
    SettingError,
    ToolError,
    UnstaleError,
    WaitTimeout,
)
from unstale.names import escape_glob

if TYPE_CHECKING:
    from unstale.cache import Cache
    from unstale.codec import FrozenDict
    from unstale.events import Invalidated, Reset
    from unstale.loads import Load
    from unstale.locks import Lock
    from unstale.pools import ConnectionPool
    from unstale.rediscache import RedisCache, redis_cache
    from unstale.refreshing import Refresh
    from unstale.settings import Settings
    from unstale.tools import Tools

__all__ = [
    "Cache",
    "CacheClosed",
    "ConfigurationError",
    "ConnectionPool",
    "FrozenDict",
    "Invalidated",
    "Load",
    "LoadCancelled",
    "Lock",
    "LockLost",
    "LockTimeout",
    "PoolClosed",
    "RedisCache",
    "RedisUnavailable",
    "Refresh",
    "Reset",
    "SettingError",
    "Settings",
    "ToolError",
    "Tools",
    "UnstaleError",
    "WaitTimeout",
    "escape_glob",
    "redis_cache",
]

_ON_USE = {
    "Cache": "cache",
    "ConnectionPool": "pools",
    "FrozenDict": "codec",
    "Invalidated": "events",
    "Load": "loads",
    "Lock": "locks",
    "RedisCache": "rediscache",
    "Refresh": "refreshing",
    "Reset": "events",
    "Settings": "settings",
    "Tools": "tools",
    "redis_cache": "rediscache",
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

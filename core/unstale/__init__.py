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
    from unstale.pools import ConnectionPool
    from unstale.settings import Settings

__all__ = [
    "Cache",
    "CacheClosed",
    "ConfigurationError",
    "ConnectionPool",
    "FrozenDict",
    "Invalidated",
    "Load",
    "LoadCancelled",
    "LockLost",
    "LockTimeout",
    "PoolClosed",
    "RedisUnavailable",
    "Reset",
    "SettingError",
    "Settings",
    "ToolError",
    "UnstaleError",
    "WaitTimeout",
    "escape_glob",
]

_ON_USE = {
    "Cache": "cache",
    "ConnectionPool": "pools",
    "FrozenDict": "codec",
    "Invalidated": "events",
    "Load": "loads",
    "Reset": "events",
    "Settings": "settings",
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

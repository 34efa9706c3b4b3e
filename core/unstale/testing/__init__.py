"""Caches without servers for unit tests, and real servers for integration tests.

Importing this package loads no client: pytest loads it, with the plugin, in every project.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unstale.testing.caches import InMemory, in_memory
    from unstale.testing.servers import Servers

__all__ = ["InMemory", "Servers", "in_memory"]

_ON_USE = {"InMemory": "caches", "Servers": "servers", "in_memory": "caches"}


def __getattr__(name: str) -> object:
    if name not in _ON_USE:
        raise AttributeError(f"module 'unstale.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"unstale.testing.{_ON_USE[name]}"), name)

"""Argument and type of a Python refresh loader."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from unstale.companion.pools import ConnectionPool


@dataclass(frozen=True, slots=True)
class Refresh:
    """One key to refresh; the only argument of a loader that ``unstale.toml`` names.

    Example:
        >>> async def greeting(refresh: Refresh) -> str:
        ...     openai = await refresh.pool.openai()
        ...     return await write_greeting(openai, refresh.fields["user_id"])

    Attributes:
        key: The key to load the value of.
        fields: The segments of the key by placeholder name, as text.
        pool: Clients of OpenAI, Supabase, HTTP and Postgres, shared by all loaders of the process. Postgres
            is the primary: what a loader reads must be as new as the change that asked for it.
    """

    key: str
    fields: Mapping[str, str]
    pool: "ConnectionPool"


RefreshLoader: TypeAlias = Callable[[Refresh], Awaitable[Any]]
"""Return the value, as the loader of a read does; None is stored as "not found"."""

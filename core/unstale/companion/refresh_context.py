"""Argument and type of a Python refresh loader."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from unstale.protocol.fingerprints import digest

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
    known: str | None = field(default=None, repr=False, compare=False)
    """Fingerprint of the value that is kept; None outside a refresh."""
    said: list[str] = field(default_factory=list, repr=False, compare=False)
    """Fingerprints that `unchanged` was given."""

    def unchanged(self, fingerprint: object) -> bool:
        """Return True if the kept value has this fingerprint: then it is stored again, whatever is returned.

        Compute it *before* the value, from all that the value depends on: JSON, or what JSON can hold.
        Otherwise it becomes the fingerprint of the returned value. Outside a refresh it is always False.

        Example:
            >>> async def greeting(refresh: Refresh) -> str | None:
            ...     facts = await read_facts(refresh)
            ...     return None if refresh.unchanged(facts) else await write_greeting(facts)
        """
        self.said[:] = [digest(self.key, fingerprint)]
        return self.known is not None and self.said[0] == self.known


RefreshLoader: TypeAlias = Callable[[Refresh], Awaitable[Any]]
"""Return the value, as the loader of a read does; None is stored as "not found"."""

"""What the demo's agents cache: three values of a user, each with the versions of the rows it is made of."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import asyncpg

from unstale_worker.demo.reports import statement

Value: TypeAlias = dict[str, object]
"""A cached value; ``versions`` maps each row it was made of to that row's version."""

KINDS: Final = ("profile", "greeting_instructions", "settings")


def sources(kind: str, user: int) -> tuple[str, ...]:
    """Whose traces say how old the value of a kind may be."""
    match kind:
        case "profile":
            return (f"profile:{user}",)
        case "greeting_instructions":
            return (f"profile:{user}", f"memories:{user}")
        case "settings":
            return (f"settings:{user}",)
        case _:
            raise ValueError(f"no value of the demo is called {kind!r}")


class Loaders:
    """Loads the values from Postgres over a few connections."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    def of(self, kind: str, user: int) -> Callable[[], Awaitable[Value]]:
        """The loader of one key."""
        load = {
            "profile": self.profile,
            "greeting_instructions": self.greeting,
            "settings": self.settings,
        }[kind]
        return lambda: load(user)

    async def profile(self, user: int) -> Value:
        """Who the user is."""
        row = await self._row("load_profile", user)
        return {
            "name": row["name"],
            "mood": row["mood"],
            "versions": {f"profile:{user}": row["version"]},
        }

    async def greeting(self, user: int) -> Value:
        """What the agent says first; in real life this asks a language model."""
        row = await self._row("load_greeting", user)
        return {
            "text": f"Hello {row['name']}, you seem {row['mood']}.",
            "memories": row["memories"],
            "versions": {f"profile:{user}": row["version"], f"memories:{user}": row["memories_version"]},
        }

    async def settings(self, user: int) -> Value:
        """What the user's organization pays for."""
        row = await self._row("load_settings", user)
        return {
            "plan": row["plan"],
            "versions": {f"organization:{row['id']}": row["version"], f"settings:{user}": row["version"]},
        }

    async def _row(self, name: str, user: int) -> asyncpg.Record:
        row = await self._pool.fetchrow(statement(name), user)
        assert row is not None
        return row

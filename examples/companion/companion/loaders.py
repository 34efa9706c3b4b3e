"""Loads each value from where it really comes from; called only when no cache has it."""

import os
from functools import cache
from importlib.resources import files
from typing import Any

import asyncpg

from companion.values import Greeting, Memory, Preferences, Profile, State
from unstale import ConnectionPool

MODEL = os.environ.get("COMPANION_MODEL", "gpt-5.4-mini")
INSTRUCTIONS = (
    "You are a warm, attentive companion. Greet the user in at most two sentences. Use the name, react to "
    "the mood, and touch on one of the memories."
)


class Loaders:
    """One method for each value; None: there is no such user, and that is worth caching, too."""

    def __init__(self, pool: ConnectionPool, *, model: str = MODEL) -> None:
        """``model``: the language model's name."""
        self._pool, self._model = pool, model
        self.greetings_written = 0
        """How often a model was asked for a greeting."""
        self.searches = 0
        """How often memories were searched."""

    async def profile(self, user_id: int) -> Profile | None:
        """Who the user is."""
        row = await self._row("profile", user_id)
        return None if row is None else Profile.model_validate(dict(row))

    async def settings(self, user_id: int) -> Preferences | None:
        """What the user chose."""
        row = await self._row("settings", user_id)
        return None if row is None else Preferences.model_validate(dict(row))

    async def state(self, user_id: int) -> State | None:
        """Where the conversation stands."""
        row = await self._row("state", user_id)
        return None if row is None else State.model_validate(dict(row))

    async def search(self, user_id: int, query: str) -> list[Memory]:
        """The memories that hold a text."""
        self.searches += 1
        postgres = await self._pool.postgres()
        rows = await postgres.fetch(statement("search"), user_id, query)
        return [Memory.model_validate(dict(row)) for row in rows]

    async def greeting(self, user_id: int) -> Greeting | None:
        """A greeting by the model; takes as long as the model does."""
        facts = await self.facts(user_id)
        return None if facts is None else await self.write(facts)

    async def facts(self, user_id: int) -> dict[str, Any] | None:
        """All that a greeting depends on."""
        row = await self._row("greeting", user_id)
        return None if row is None else dict(row)

    async def write(self, row: dict[str, Any]) -> Greeting:
        """Ask the model for a greeting made of these facts."""
        known = [f"Name: {row['name']}", f"Mood: {row['mood']}", "Memories:"]
        known += [f"- {memory}" for memory in row["memories"]]
        openai = await self._pool.openai()
        self.greetings_written += 1
        answer = await openai.chat.completions.create(
            model=self._model,
            messages=[
                {"role": "system", "content": INSTRUCTIONS},
                {"role": "user", "content": "\n".join(known)},
            ],
        )
        return Greeting(
            text=answer.choices[0].message.content or f"Hello, {row['name']}.",
            model=answer.model,
            profile_version=row["profile_version"],
            memories_version=row["memories_version"],
        )

    async def _row(self, name: str, user_id: int) -> asyncpg.Record | None:
        postgres = await self._pool.postgres()
        return await postgres.fetchrow(statement(name), user_id)


@cache
def statement(name: str) -> str:
    """The text of ``sql/<name>.sql``."""
    return files("companion").joinpath("sql", f"{name}.sql").read_text("utf-8")

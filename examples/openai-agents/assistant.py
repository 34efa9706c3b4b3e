"""An assistant whose instructions follow the database, and stay the same text in between."""

import asyncio
import os

import asyncpg
from agents import Agent, RunContextWrapper, Runner, SQLiteSession, set_default_openai_api

from unstale import Cache

USER = 1
STABLE = """\
You are the assistant of a small clockmaker's shop.
Answer in one or two sentences. Never invent an opening hour or a price.
"""
"""The same for every user and turn, and first: model providers reuse the longest prefix they know."""


class Instructions:
    """The instructions of one conversation, rebuilt after a change of what they are made of."""

    def __init__(self, cache: Cache, db: asyncpg.Pool, user_id: int) -> None:
        self._cache, self._db, self._user_id = cache, db, user_id
        self._text, self._built, self._changes = "", -1, 0

    async def follow(self) -> None:
        async with self._cache.subscribe(f"user:{self._user_id}:*") as events:
            async for _ in events:  # an invalidation, or a Reset: anything may have changed
                self._changes += 1

    async def __call__(self, context: RunContextWrapper[None], agent: Agent[None]) -> str:
        if self._built != self._changes:
            built = self._changes  # a change that arrives while this builds counts for the next turn
            self._text = f"{STABLE}\nYou talk to {await self._name()}.\n{await self._memories()}"
            self._built = built
        return self._text

    async def _name(self) -> str:
        query = "select name from profiles where id = $1"
        name = await self._cache.get_or_load(
            f"user:{self._user_id}:profile", lambda: self._db.fetchval(query, self._user_id), model=str
        )
        return name or "somebody new"

    async def _memories(self) -> str:
        query = "select '- ' || content from memories where user_id = $1 order by id"

        async def load() -> list[str]:
            return [row[0] for row in await self._db.fetch(query, self._user_id)]

        return "\n".join(await self._cache.get_or_load(f"user:{self._user_id}:memories", load))


async def main() -> None:
    set_default_openai_api("chat_completions")  # the API that other providers have, too
    async with Cache.from_env() as cache, asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1) as db:
        instructions = Instructions(cache, db, USER)
        following = asyncio.create_task(instructions.follow())
        agent = Agent(name="Assistant", instructions=instructions, model="gpt-5.4-mini")
        session = SQLiteSession(f"user:{USER}")
        while text := await asyncio.to_thread(input, "You: "):
            answer = await Runner.run(agent, text, session=session)
            print(answer.final_output, flush=True)
        following.cancel()


if __name__ == "__main__":
    asyncio.run(main())

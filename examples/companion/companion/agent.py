"""The companion itself: opens conversations, and answers what a user says with the help of tools."""

from typing import TYPE_CHECKING, cast

from companion.knowledge import Knowledge, Session
from companion.loaders import MODEL, Loaders
from unstale import Cache, ConnectionPool, Tools

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam

MOST_ROUNDS = 4
"""How often the model may call tools before it has to answer."""


class Companion:
    """One instance of the agent; any number of them share Redis and the database.

    Example:
        >>> async with ConnectionPool.from_env() as pool, Cache.from_env() as cache:
        ...     companion = Companion(cache, pool)
        ...     session = await companion.session(42)
        ...     print(session.greeting.text)
        ...     print(await companion.reply(42, "Do you still know what I like?"))
    """

    def __init__(self, cache: Cache, pool: ConnectionPool, *, model: str = MODEL) -> None:
        self.cache, self.pool = cache, pool
        self._model = model
        self.loaders = Loaders(pool, model=model)
        self.knowledge = Knowledge(cache, self.loaders)

    async def session(self, user_id: int) -> Session | None:
        """Greet a user; None: there is no such user."""
        return await self.knowledge.session(user_id)

    async def reply(self, user_id: int, text: str) -> str | None:
        """Answer what a user says; None: there is no such user."""
        session = await self.session(user_id)
        if session is None:
            return None
        tools = self.tools(user_id)
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": f"You are a companion and began with: {session.greeting.text}"},
            {"role": "user", "content": text},
        ]
        openai = await self.pool.openai()
        for left in reversed(range(MOST_ROUNDS)):
            answer = await openai.chat.completions.create(
                model=self._model,
                messages=messages,
                tools=cast("list[ChatCompletionToolUnionParam]", tools.openai()),
                tool_choice="auto" if left else "none",
            )
            message = answer.choices[0].message
            if not message.tool_calls:
                return message.content or ""
            messages.append(cast("ChatCompletionMessageParam", message))  # the client takes its own objects
            calls = [call for call in message.tool_calls if call.type == "function"]
            messages += cast("list[ChatCompletionMessageParam]", await tools.answer(calls))
        raise AssertionError("without tools to choose from a model cannot call one")

    def tools(self, user_id: int) -> Tools:
        """What the model may do in this user's session, and to nobody else's values."""
        loaders = {
            "profile": lambda: self.loaders.profile(user_id),
            "settings": lambda: self.loaders.settings(user_id),
            "state": lambda: self.loaders.state(user_id),
            "greeting_instructions": lambda: self.loaders.greeting(user_id),
        }
        return Tools(self.cache, self.pool, user_id=user_id, loaders=loaders)

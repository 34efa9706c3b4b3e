"""Stands in for the OpenAI API where there is no key: real HTTP, the real shapes, no model behind it.

``python -m companion.stand_in`` prints what makes a program use it.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

LABEL: Final = "stand-in, no real model"
NAME: Final = "stand-in"
"""What its answers give as their model."""
SECONDS: Final = (0.5, 1.0)
"""What a model takes for a greeting."""
GREETINGS: Final = (
    "Welcome back, {name}. You seemed {mood} last time; {memory} is still on my mind.",
    "Hello {name}! Feeling {mood} today? I have been thinking of this: {memory}.",
    "Good to see you, {name}. {mood}, as ever? Tell me more about it: {memory}.",
)


class Function(BaseModel):
    name: str


class ToolDefinition(BaseModel):
    function: Function


class Message(BaseModel):
    role: str
    content: str | None = None


class Asked(BaseModel):
    """What it reads of a request for a chat completion."""

    model: str
    messages: list[Message] = Field(min_length=1)
    tools: list[ToolDefinition] = []
    tool_choice: str = "auto"


class StandIn:
    """Listens on a loopback port: ``/v1/chat/completions`` and ``/v1/models``.

    It greets by what the prompt says, calls a tool when the user names one, and reports what the tool said.
    """

    def __init__(self, *, seconds: tuple[float, float] = SECONDS, port: int = 0) -> None:
        """``seconds``: shortest and longest time to an answer; ``port``: 0 lets the kernel choose."""
        self._seconds, self._port = seconds, port
        self.calls = 0
        """Completions asked for."""
        self.url = ""
        """For ``OPENAI_BASE_URL``; known once it has been entered."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            asked = Asked.model_validate_json(await request.read())
        except ValidationError as error:
            refusal = {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}
            return web.json_response({"error": refusal}, status=400)
        self.calls += 1
        await asyncio.sleep(random.uniform(*self._seconds))
        message, reason = _answer(asked, number=self.calls)
        prompt, answer = _tokens(*(each.content for each in asked.messages)), _tokens(message["content"])
        return web.json_response(
            {
                "id": f"chatcmpl-{NAME}-{self.calls}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": NAME,
                "system_fingerprint": LABEL,
                "choices": [{"index": 0, "finish_reason": reason, "message": message, "logprobs": None}],
                "usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": answer,
                    "total_tokens": prompt + answer,
                },
            }
        )

    async def _models(self, request: web.Request) -> web.Response:
        model = {"id": NAME, "object": "model", "created": 0, "owned_by": NAME}
        return web.json_response({"object": "list", "data": [model]})

    def __repr__(self) -> str:
        return f"<StandIn {self.url or 'not started'}, {self.calls} calls>"


def _answer(asked: Asked, *, number: int) -> tuple[dict[str, object], str]:
    """Message and ``finish_reason``."""
    last = asked.messages[-1]
    text = last.content or ""
    if last.role == "tool":
        return {"role": "assistant", "content": f"I looked it up: {text}"}, "stop"
    named = [tool.function.name for tool in asked.tools if tool.function.name in text]
    if named and asked.tool_choice != "none":
        argument = {"refreshCache": {"key": "profile"}, "invalidateCache": {"pattern": "*"}}
        function = {"name": named[0], "arguments": json.dumps(argument.get(named[0], {}))}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    known = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    memories = [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]
    if "Name" not in known:
        return {"role": "assistant", "content": f"You said: {text}"}, "stop"
    greeting = GREETINGS[number % len(GREETINGS)].format(
        name=known["Name"], mood=known.get("Mood", "well"), memory=memories[0] if memories else "nothing yet"
    )
    return {"role": "assistant", "content": greeting}, "stop"


def _tokens(*texts: object) -> int:
    """About as many as a model would count: four characters each."""
    return sum(len(text) for text in texts if isinstance(text, str)) // 4


async def _serve(*, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with StandIn(port=port) as model:
        print(f"# {LABEL}; for .env:\nOPENAI_API_KEY=none\nOPENAI_BASE_URL={model.url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m companion.stand_in", description=__doc__)
    parser.add_argument("--port", type=int, default=8090, help="0: any free one")
    chosen: int = parser.parse_args().port
    try:
        asyncio.run(_serve(port=chosen))
    except OSError as error:
        sys.exit(
            f"Port {chosen} cannot be used ({error.strerror}). Take another one: --port 0 is any free one."
        )

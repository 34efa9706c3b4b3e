"""Tokens that the pool's OpenAI clients read out of responses: whole ones and streams, of either API."""

import asyncio
import gzip
import json
from contextlib import suppress
from typing import Any

from aiohttp import web
from openai import APIError

from unstale import ConnectionPool
from unstale.companion.pools.usage import Usage, counted
from unstale.settings import PoolSettings

CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
SAID = {"role": "assistant", "content": "Hello"}
RESPONSE = {
    "id": "r", "object": "response", "created_at": 1, "model": "m", "output": [], "tools": [],
    "tool_choice": "auto", "parallel_tool_calls": True, "status": "completed",
}  # fmt: skip
USED = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
USED_NOW = {
    "input_tokens": 7, "output_tokens": 3, "total_tokens": 10,
    "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
}  # fmt: skip


def events(*events: dict[str, Any], end: str = "") -> bytes:
    return "".join(f"data: {json.dumps(each)}\n\n" for each in events).encode() + end.encode()


def chunk(text: str) -> dict[str, Any]:
    return {
        **CHAT, "object": "chat.completion.chunk", "usage": None,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }  # fmt: skip


async def chat(request: web.Request) -> web.Response:
    asked = await request.json()
    if asked["model"] == "broken":
        return web.json_response({"error": {"message": "no"}, "usage": USED}, status=500)
    if not asked.get("stream"):
        body = {**CHAT, "choices": [{"index": 0, "finish_reason": "stop", "message": SAID}], "usage": USED}
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=gzip.compress(json.dumps(body).encode()), headers=headers)
    parts = [chunk('"usage"'), chunk("lo")]
    if asked.get("stream_options", {}).get("include_usage"):
        parts.append({**CHAT, "object": "chat.completion.chunk", "choices": [], "usage": USED})
    return web.Response(body=events(*parts, end="data: [DONE]\n\n"), content_type="text/event-stream")


async def responses(request: web.Request) -> web.Response:
    whole = {**RESPONSE, "usage": USED_NOW}
    if not (await request.json()).get("stream"):
        return web.json_response(whole)
    begun = {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "usage": None}}
    ended = {"type": "response.completed", "sequence_number": 1, "response": whole}
    return web.Response(body=events(begun, ended), content_type="text/event-stream")


async def test_usage_of_every_kind_of_call() -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/responses", responses)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    settings = PoolSettings(openai_api_key="k", openai_base_url=url)
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    try:
        async with ConnectionPool(settings) as pool:
            openai = await pool.openai()
            await openai.chat.completions.create(**asked)  # counted by no one
            for copied in (openai, openai.with_options(max_retries=0)):
                usage = Usage()
                with counted(usage):
                    answer = await copied.chat.completions.with_raw_response.create(**asked)
                    assert answer.parse().choices[0].message.content == "Hello"
                    assert json.loads(answer.content)["usage"] == USED, "a body that is read again"
                assert usage.tokens == (100, 20)

            usage = Usage()
            with counted(usage):
                text = [
                    part.choices[0].delta.content if part.choices else "."
                    async for part in await openai.chat.completions.create(
                        **asked, stream=True, stream_options={"include_usage": True}
                    )
                ]
            assert text == ['"usage"', "lo", "."]
            assert usage.tokens == (100, 20)
            with counted(usage):
                async for _ in await openai.chat.completions.create(**asked, stream=True):
                    pass
                assert usage.tokens == (100, 20), "nothing was said of it"
                with suppress(APIError):
                    await openai.with_options(max_retries=0).chat.completions.create(
                        **{**asked, "model": "broken"}
                    )
                assert usage.tokens == (100, 20), "an error costs nothing"

            usage = Usage()
            with counted(usage):
                await openai.responses.create(model="m", input="Hi")
                async for _ in await openai.responses.create(model="m", input="Hi", stream=True):
                    pass
            assert usage.tokens == (14, 6)

            usage = Usage()
            with counted(usage):
                sync = pool.openai_sync()
                await asyncio.to_thread(lambda: sync.chat.completions.create(**asked))
                await asyncio.gather(*(openai.chat.completions.create(**asked) for _ in range(3)))
            assert usage.tokens == (400, 80)
    finally:
        await runner.cleanup()

"""A double of the parts of OpenAI's and Supabase's APIs that the pool's clients use. It can misbehave."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiohttp.typedefs import Handler

KEY = "sk-test-secret"
SUPABASE_KEY = "sb_secret_test"


class StandIn:
    """A server on a loopback port that the kernel chooses.

    Attributes:
        gate: While it is cleared, requests wait (health checks do not).
        status: HTTP status of every answer, if not 200.
        requests: Number of requests per path.
        connections: Number of connections that carried a request.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.gate = asyncio.Event()
        self.gate.set()
        self.status = 200
        self.waiting = 0
        self.requests: Counter[str] = Counter()
        self.keys: set[str] = set()
        self._connections: set[tuple[str, int]] = set()
        self.port = 0

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that make a pool use this server for both services."""
        return {
            "openai_api_key": KEY,
            "openai_base_url": f"{self.url}/v1",
            "supabase_url": self.url,
            "supabase_key": SUPABASE_KEY,
        }

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._count])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._completion)
        app.router.add_route("HEAD", "/rest/v1/", self._empty)
        app.router.add_get("/rest/v1/{table}", self._rows)
        app.router.add_get("/plain", self._plain)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.gate.set()
        await self._runner.cleanup()

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests[request.path] += 1
        self.keys.add(request.headers.get("Authorization", ""))
        assert request.transport is not None
        self._connections.add(request.transport.get_extra_info("peername")[:2])
        if self.status != 200:
            return web.json_response({"message": "no", "error": {"message": "no"}}, status=self.status)
        if request.path not in ("/v1/models", "/rest/v1/"):
            self.waiting += 1
            try:
                await self.gate.wait()
            finally:
                self.waiting -= 1
        return await handler(request)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        said = asked["messages"][-1]["content"]
        base = {"id": "c1", "created": 1, "model": asked["model"]}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": f"You said: {said}"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            return web.json_response({**base, "object": "chat.completion", "choices": [choice]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in f"You said: {said}".split():
            piece = web.json_response(
                {
                    **base,
                    "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
                }
            ).text
            await response.write(f"data: {piece}\n\n".encode())
            await self.gate.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _rows(self, request: web.Request) -> web.Response:
        return web.json_response(
            [{"table": request.match_info["table"], "schema": request.headers.get("Accept-Profile")}]
        )

    async def _empty(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _plain(self, request: web.Request) -> web.Response:
        return web.Response(text="plain")

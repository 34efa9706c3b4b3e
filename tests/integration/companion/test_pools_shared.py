"""Nothing of one user stays on a client that the pool shares: no cookie, no session, no header."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from supabase import AsyncClient

from unstale import ConfigurationError, ConnectionPool

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
USER = {"id": "00000000-0000-0000-0000-000000000001", "aud": "authenticated", "app_metadata": {},
        "user_metadata": {}, "created_at": "2024-05-17T00:00:00Z"}  # fmt: skip
SESSION = {"access_token": "ada.token.x", "refresh_token": "r", "expires_in": 3600, "token_type": "bearer",
           "user": USER}  # fmt: skip


class Server:
    """Sets a cookie with each answer, signs everybody in, and redirects ``/away`` to another server."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.elsewhere = ""

    async def __aenter__(self) -> Server:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://localhost:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path, {name.lower(): text for name, text in request.headers.items()}))
        response: web.Response
        if "away" in request.path and self.elsewhere:
            response = web.Response(status=307, headers={"Location": f"{self.elsewhere}{request.path}"})
        elif "hop" in request.path:
            response = web.Response(status=307, headers={"Location": request.path.replace("hop", "landed")})
        elif request.path == "/auth/v1/token":
            response = web.json_response(SESSION)
        elif request.path.endswith("/completions"):
            message = {"role": "assistant", "content": "hello"}
            choices = [{"index": 0, "finish_reason": "stop", "message": message}]
            response = web.json_response(
                {"id": "c", "created": 1, "model": "m", "object": "chat.completion", "choices": choices}
            )
        else:
            response = web.json_response([])
        response.set_cookie("session", "ada")
        response.headers.add("Set-Cookie", "other=ada; Domain=localhost; Path=/; Max-Age=60")
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as server:
        yield server


@pytest.fixture
async def pool(server: Server) -> AsyncIterator[ConnectionPool]:
    async with ConnectionPool.from_env(
        env_file=None,
        openai_api_key="sk-key",
        openai_base_url=f"{server.url}/v1",
        supabase_url=server.url,
        supabase_key="sb_secret_key",
    ) as pool:
        yield pool


async def session(pool: ConnectionPool, server: Server) -> None:
    async with (await pool.http()).get(f"{server.url}/hop") as response:
        await response.read()


async def openai(pool: ConnectionPool, _server: Server) -> None:
    await (await pool.openai()).chat.completions.create(**ASK)


async def openai_of_threads(pool: ConnectionPool, _server: Server) -> None:
    await asyncio.to_thread(lambda: pool.openai_sync().chat.completions.create(**ASK))


async def supabase(pool: ConnectionPool, _server: Server) -> None:
    await (await pool.supabase()).table("hop").select("*").execute()


@pytest.mark.parametrize("ask", [session, openai, openai_of_threads, supabase])
async def test_no_cookie_of_one_request_goes_out_with_the_next(
    pool: ConnectionPool, server: Server, ask: Callable[[ConnectionPool, Server], Awaitable[None]]
) -> None:
    for _ in range(2):
        await ask(pool, server)
    assert len(server.seen) >= 2
    assert not [path for path, headers in server.seen if "cookie" in headers]


async def test_a_request_may_bring_a_cookie_of_its_own(pool: ConnectionPool, server: Server) -> None:
    http = await pool.http()
    async with http.get(f"{server.url}/a", cookies={"mine": "1"}):
        pass
    async with http.get(f"{server.url}/b"):
        pass
    assert [headers.get("cookie") for _, headers in server.seen] == ["mine=1", None]


SIGN_IN: list[Callable[[AsyncClient], Awaitable[Any]]] = [
    lambda client: client.auth.sign_in_with_password({"email": "ada@example.com", "password": "x"}),
    lambda client: client.auth.sign_in_with_id_token({"provider": "google", "token": "x"}),
    lambda client: client.auth.refresh_session("r"),
    lambda client: client.realtime.set_auth("ada.token.x"),
]


@pytest.mark.parametrize("sign_in", SIGN_IN)
async def test_nobody_can_sign_in_on_a_shared_client(
    pool: ConnectionPool, server: Server, sign_in: Callable[[AsyncClient], Awaitable[Any]]
) -> None:
    client = await pool.supabase()
    with pytest.raises(ConfigurationError, match="shared by all users"):
        await sign_in(client)
    with pytest.raises(ConfigurationError, match=r"schema\('public'\)\.auth\(token\)"):
        client.postgrest.auth("ada.token.x")
    assert await client.auth.get_session() is None
    await (await pool.supabase()).table("profiles").select("*").execute()
    assert server.seen[-1][1]["authorization"] == "Bearer sb_secret_key"


async def test_one_request_may_act_for_a_user(pool: ConnectionPool, server: Server) -> None:
    client = await pool.supabase()
    await client.schema("public").auth("ada.token.x").from_("profiles").select("*").execute()
    await client.table("profiles").select("*").execute()
    assert [headers["authorization"] for _, headers in server.seen] == [
        "Bearer ada.token.x",
        "Bearer sb_secret_key",
    ]


async def test_a_redirect_to_another_server_gets_no_key(pool: ConnectionPool, server: Server) -> None:
    async with Server() as other:
        server.elsewhere = other.url
        await (await pool.supabase()).table("away").select("*").execute()
        async with (await pool.http()).get(f"{server.url}/away", headers={"Authorization": "x"}):
            pass
        await (await pool.openai()).get("/away", cast_to=object)
        assert len(other.seen) == 3
        for _, headers in other.seen:
            assert "sb_secret_key" not in str(headers)
            assert "sk-key" not in str(headers)
            assert "authorization" not in headers

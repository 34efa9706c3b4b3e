"""Proxies of the environment count, though the pool's transports are of its own making."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from unstale import ConnectionPool
from unstale.companion.pools.environment import proxy_of

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """Answers everything itself; its URL, and the first line of each request."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0].decode())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_requests_of_every_client_go_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as (url, asked):
        monkeypatch.setenv("http_proxy", url)
        async with ConnectionPool.from_env(
            env_file=None,
            openai_api_key="sk",
            openai_base_url="http://openai.invalid/v1",
            supabase_url="http://supabase.invalid",
            supabase_key="sb",
        ) as pool:
            await (await pool.openai())._client.get("http://openai.invalid/v1/models")
            await (await pool.supabase()).table("profiles").select("*").execute()
            async with (await pool.http()).get("http://else.invalid/") as response:
                await response.read()
            await asyncio.to_thread(lambda: pool.openai_sync()._client.get("http://openai.invalid/v1/sync"))
    assert [line.split()[1].partition("?")[0] for line in asked] == [
        "http://openai.invalid/v1/models",
        "http://supabase.invalid/rest/v1/profiles",
        "http://else.invalid/",
        "http://openai.invalid/v1/sync",
    ]


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({}, "https://api.openai.com/v1", None),
        ({"https_proxy": "http://p:1"}, "https://api.openai.com/v1", "http://p:1"),
        ({"https_proxy": "http://p:1"}, "http://api.openai.com/v1", None),
        ({"all_proxy": "p:1"}, "https://api.openai.com/v1", "http://p:1"),
        ({"https_proxy": "http://p:1", "no_proxy": "openai.com"}, "https://api.openai.com/v1", None),
        ({"https_proxy": "http://p:1", "no_proxy": "*"}, "https://api.openai.com/v1", None),
        ({"https_proxy": "http://p:1"}, "nonsense", None),
    ],
)
def test_which_proxy_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, expected: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == expected

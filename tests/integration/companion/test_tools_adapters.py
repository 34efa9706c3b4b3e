"""The tools through the official MCP SDK and through LiveKit's own function calling.

Each test imports its SDK: they take seconds of CPU, and every test process imports this module to collect it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.api_double import StandIn
from unstale import Cache, ConnectionPool, Tools
from unstale_worker.dev_servers import EmbeddedValkey
from workers.commands import SECONDS, run

SEVEN = [
    "getConnectionPoolStats",
    "cleanupConnectionPool",
    "getRedisCacheStats",
    "clearUserCache",
    "invalidateCache",
    "getInvalidationStats",
    "refreshCache",
]


@pytest.fixture
async def tools(cache: Cache) -> AsyncIterator[Tools]:
    async with StandIn() as standin, ConnectionPool.from_env(env_file=None, **standin.settings) as pool:
        yield Tools(cache, pool, user_id=1)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_an_mcp_client_lists_and_calls_them(tools: Tools, cache: Cache, mode: str) -> None:
    from mcp import Client

    from unstale.companion.tools.mcp import mcp_server

    for key in ("user:1:note", "user:10:note"):
        await cache.set(key, "note", ttl=60)
    async with Client(mcp_server(tools), mode=mode) as client:
        listed = (await client.list_tools()).tools
        assert [tool.name for tool in listed] == SEVEN
        by_name = {tool.name: tool for tool in listed}
        assert by_name["invalidateCache"].input_schema["required"] == ["pattern"]
        hints = by_name["getRedisCacheStats"].annotations
        assert hints is not None
        assert hints.read_only_hint is True

        done = await client.call_tool("invalidateCache", {"pattern": "*"})
        assert done.is_error is False
        assert done.structured_content == {"removed": 1}
        assert json.loads(done.content[0].text) == {"removed": 1}  # type: ignore[union-attr]
        assert await cache.get("user:10:note") == "note"

        refused = await client.call_tool("invalidateCache", {"pattern": "user:10:*"})
        assert refused.is_error is True
        assert "Only the current user's keys" in refused.content[0].text  # type: ignore[union-attr]


async def test_unstale_mcp_serves_over_standard_input_and_output(
    cache: Cache, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """The real command, spoken to by the official client."""
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    for key in ("user:1:note", "user:10:note"):
        await cache.set(key, "note", ttl=60)
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "unstale_worker.cli.commands", "mcp", "--user", "1"],
        env={**os.environ, "REDIS_URL": valkey.url},
        cwd=tmp_path,
    )
    async with Client(stdio_client(command)) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == SEVEN
        done = await client.call_tool("clearUserCache", {})
        assert done.structured_content == {"removed": 1}
        stats: Any = (await client.call_tool("getRedisCacheStats", {})).structured_content
        assert (stats["connected"], stats["status"]) == (True, "healthy")
    assert await cache.get("user:10:note") == "note"


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, None], ids=["term", "int", "eof"])
async def test_unstale_mcp_ends_when_it_is_told_to(
    valkey: EmbeddedValkey, tmp_path: Path, end: signal.Signals | None
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "unstale_worker.cli.commands", "mcp", "--user", "1",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "REDIS_URL": valkey.url}, cwd=tmp_path,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        async with asyncio.timeout(SECONDS):
            assert json.loads(await process.stdout.readline())["result"]["serverInfo"]["name"] == "unstale"
            if end is None:
                process.stdin.close()
            else:
                process.send_signal(end)
            said, complained = await process.communicate()
        assert (process.returncode, said) == (0, b"")
        assert [line for line in complained.splitlines() if b"no worker has led" not in line] == []
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("user", ["", "1:2"])
def test_unstale_mcp_refuses_an_id_that_names_nobody(user: str, tmp_path: Path) -> None:
    done = run("mcp", "--user", user, cwd=tmp_path)
    assert done.code == 2
    assert "--user: user id" in done.err


async def test_livekit_calls_them(tools: Tools, cache: Cache) -> None:
    from livekit.agents.llm import FunctionToolCall, ToolContext
    from livekit.agents.llm.utils import execute_function_call

    from unstale.companion.tools.livekit import livekit_tools

    async def call(name: str, arguments: str) -> Any:
        asked = FunctionToolCall(name=name, arguments=arguments, call_id="c")
        return await execute_function_call(asked, context)

    for key in ("user:1:note", "user:10:note"):
        await cache.set(key, "note", ttl=60)
    context = ToolContext(livekit_tools(tools))
    assert list(context.function_tools) == SEVEN
    schema = context.function_tools["invalidateCache"].info.raw_schema  # type: ignore[union-attr]
    assert schema["parameters"]["required"] == ["pattern"]

    done = await call("invalidateCache", '{"pattern": "*"}')
    assert done.raw_output == {"removed": 1}
    assert done.fnc_call_out.is_error is False
    assert await cache.get("user:10:note") == "note"

    refused = await call("invalidateCache", '{"pattern": "user:10:*"}')
    assert refused.fnc_call_out.is_error is True
    assert "Only the current user's keys" in refused.fnc_call_out.output

    stats = await call("getRedisCacheStats", "")
    assert stats.raw_output["connected"] is True

"""The tools as an MCP server over standard input and output; needs the extra ``mcp``."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from unstale.cache import Cache
from unstale.companion.pools import ConnectionPool
from unstale.companion.tools.tools import Tools
from unstale.errors import ToolError
from unstale.runtime.extras import needs
from unstale.version import __version__

with needs("mcp", what="The MCP server"):
    import mcp_types as types
    from mcp.server import Server, ServerRequestContext
    from mcp.server.stdio import stdio_server

if TYPE_CHECKING:
    from anyio import AsyncFile

MOST_LINE_BYTES: Final = 1024 * 1024
"""Most bytes of one request; a longer one ends the connection."""
INSTRUCTIONS: Final = (
    "Inspects and clears the cache and the connections of an AI companion agent, for one user. "
    "Names of keys and patterns are relative to that user's keys."
)


def mcp_server(tools: Tools) -> "Server[Any]":
    """Return a server that offers ``tools``; run it over any transport of the SDK."""

    async def list_tools(
        _context: "ServerRequestContext[Any]", _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool.parameters,
                    annotations=types.ToolAnnotations(
                        read_only_hint=tool.reads_only,
                        destructive_hint=False,  # only cached copies are removed
                        idempotent_hint=True,
                        open_world_hint=False,
                    ),
                )
                for tool in tools
            ]
        )

    async def call_tool(
        _context: "ServerRequestContext[Any]", params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        try:
            result = await tools.run(params.name, params.arguments)
        except ToolError as error:
            return types.CallToolResult(
                content=[types.TextContent(type="text", text=str(error))], is_error=True
            )
        text = json.dumps(result, ensure_ascii=False)
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=text)], structured_content=result
        )

    return Server(
        "unstale",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def serve_stdio(*, user_id: str) -> None:
    """Serve one client until it disconnects. Standard output belongs to the protocol: log elsewhere."""
    async with Cache.from_env() as cache, ConnectionPool.from_env() as pool, _standard_input() as lines:
        server = mcp_server(Tools(cache, pool, user_id=user_id))
        # The SDK only iterates over it.
        async with stdio_server(stdin=cast("AsyncFile[str] | None", lines)) as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())


@asynccontextmanager
async def _standard_input() -> AsyncIterator[AsyncIterator[str] | None]:
    """Yield the lines of standard input without a thread. The SDK reads in a thread that no signal can end.

    Yields None if standard input is not a pipe, for example a file: reading one never waits.
    """
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=MOST_LINE_BYTES)
    pipe = os.fdopen(os.dup(0), "rb", buffering=0)
    try:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    except (OSError, ValueError, NotImplementedError):  # not a pipe; the SDK then reads it in its own way
        pipe.close()
        yield None
        return
    try:
        yield _decoded(reader)
    finally:
        transport.close()
        os.set_blocking(0, True)  # the shell uses the same terminal


async def _decoded(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    while line := await reader.readline():
        yield line.decode("utf-8", "replace")

"""``unstale mcp``: serve one MCP client until it disconnects or the process is stopped."""

import asyncio

from unstale.companion.tools.user_scope import UserKeys
from unstale.errors import ConfigurationError
from unstale.runtime.cancellation import cancelled


async def serve(*, user: str, stop: asyncio.Event) -> None:
    """Serve until the client disconnects or ``stop`` is set.

    Raises `ConfigurationError` for an invalid user id, and `MissingExtra` without the extra ``mcp``.
    """
    try:
        UserKeys(user)
    except ValueError as error:
        raise ConfigurationError(f"--user: {error}") from None
    from unstale.companion.tools.mcp import serve_stdio

    serving = asyncio.create_task(serve_stdio(user_id=user), name="unstale-mcp")
    stopping = asyncio.create_task(stop.wait(), name="unstale-mcp-stop")
    try:
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
    finally:
        for task in (serving, stopping):
            await cancelled(task)

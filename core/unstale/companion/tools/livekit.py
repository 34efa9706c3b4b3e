"""The tools as LiveKit ``function_tool``s; needs the extra ``livekit``."""

from collections.abc import Awaitable, Callable
from typing import Any

from unstale.companion.tools.tools import Tool, Tools
from unstale.errors import ToolError
from unstale.runtime.extras import needs

with needs("livekit", what="unstale.companion.tools.livekit"):
    from livekit.agents import function_tool
    from livekit.agents.llm import RawFunctionTool
    from livekit.agents.llm import ToolError as LiveKitToolError

Call = Callable[[dict[str, object]], Awaitable[dict[str, object]]]


def livekit_tools(tools: Tools) -> "list[RawFunctionTool[Any, Any]]":
    """Return the tools for ``Agent(tools=...)``. Errors reach the model as LiveKit's own `ToolError`."""
    return [_wrapped(tool, tools) for tool in tools]


def _wrapped(tool: Tool, tools: Tools) -> "RawFunctionTool[Any, Any]":
    async def call(raw_arguments: dict[str, object]) -> dict[str, object]:
        try:
            return await tools.run(tool.name, raw_arguments)
        except ToolError as error:
            raise LiveKitToolError(str(error)) from error

    return function_tool(
        call,
        raw_schema={"name": tool.name, "description": tool.description, "parameters": tool.parameters},
    )

"""One tool as a model sees it, and a call as a client delivers it."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from unstale.companion.tools.call_limits import LOOKING, Limit
from unstale.errors import ToolError

Result = dict[str, object]


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool as a model sees it.

    Attributes:
        name: In camel case, as models are used to.
        description: Its purpose, and when to call it.
        argument: Name and description of its one string argument, if it has one.
        reads_only: True if it changes nothing.
        run: Executes it; raises `ToolError` with a sentence for the model.
        limit: How often it may be called.
    """

    name: str
    description: str
    argument: tuple[str, str] | None
    reads_only: bool
    run: Callable[..., Awaitable[Result]]
    limit: Limit = LOOKING

    @property
    def parameters(self) -> dict[str, object]:
        """JSON schema of the arguments, valid in strict mode."""
        properties = {}
        if self.argument is not None:
            name, description = self.argument
            properties[name] = {"type": "string", "description": description}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    async def call(self, arguments: Mapping[str, object]) -> Result:
        """Check the arguments and run the tool; raises `ToolError`."""
        wanted = {self.argument[0]} if self.argument is not None else set()
        if set(arguments) != wanted:
            expected = f"exactly the argument '{self.argument[0]}'" if self.argument else "no arguments"
            raise ToolError(f"{self.name} takes {expected}.")
        return await self.run(*arguments.values())


class Function(Protocol):
    """Name and JSON arguments of a call."""

    @property
    def name(self) -> str: ...

    @property
    def arguments(self) -> str: ...


class ToolCall(Protocol):
    """A call as the OpenAI client delivers it in ``message.tool_calls``."""

    @property
    def id(self) -> str: ...

    @property
    def function(self) -> Function: ...


def parsed(arguments: Mapping[str, object] | str | None) -> Mapping[str, object]:
    """Return a call's arguments, decoded if they are a model's JSON; raises `ToolError`."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise ToolError("The arguments are not valid JSON.") from None
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise ToolError("The arguments have to be a JSON object.")
    return arguments

"""Loads the Lua files: one atomic operation each, behind one callable.

Every script is sent as EVALSHA; after a NOSCRIPT (a restarted or promoted server) it is sent once as EVAL,
which also loads it. Nothing else is retried here.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol

from redis.exceptions import NoScriptError

HEADER: Final = "#!lua flags=allow-oom\n"
"""An invalidation is never refused because Redis is out of memory: it only frees some."""

STRICT_HEADER: Final = "#!lua\n"
"""Header of a script that stores more than it frees: Redis refuses it when it is out of memory."""

Argument = str | bytes | int | float


class CommandSender(Protocol):
    """What sends commands: redis-py's client, or an agent's multiplexer."""

    @property
    def execute_command(self) -> Callable[..., Any]:
        """Redis-py leaves this method of its untyped: (*args, **options)."""


async def command(redis: CommandSender, *parts: Argument) -> Any:
    """Send one command."""
    send: Callable[..., Awaitable[Any]] = redis.execute_command
    return await send(*parts)


class Script:
    """One Lua file of a package's ``lua`` folder, with the shared ``_common.lua`` before it.

    Example:
        >>> fill = Script("unstale.redis_tier", "fill")
        >>> await fill(redis, keys=["user:42:profile"], args=[lease, value, 60_000])
    """

    __slots__ = ("name", "sha", "text")

    def __init__(self, package: str, name: str, *, allow_oom: bool = True) -> None:
        common = files("unstale.redis_tier").joinpath("lua", "_common.lua").read_text("utf-8")
        body = files(package).joinpath("lua", f"{name}.lua").read_text("utf-8")
        self.name = name
        self.text = (HEADER if allow_oom else STRICT_HEADER) + common + body
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(
        self,
        redis: CommandSender,
        *,
        keys: Sequence[str] | Sequence[bytes] | Sequence[str | bytes],
        args: Sequence[Argument] = (),
    ) -> Any:
        """Run it; raises redis-py's exceptions. Replies are what the Lua file's first comment says."""
        try:
            return await command(redis, "EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await command(redis, "EVAL", self.text, len(keys), *keys, *args)

    def call(
        self,
        *,
        keys: Sequence[str] | Sequence[bytes] | Sequence[str | bytes],
        args: Sequence[Argument] = (),
    ) -> tuple[Argument, ...]:
        """The command, for a pipeline; `load` the script first, or expect NoScriptError."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    async def load(self, redis: CommandSender) -> None:
        """Make the server know it."""
        await command(redis, "SCRIPT LOAD", self.text)

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.sha[:8]}>"

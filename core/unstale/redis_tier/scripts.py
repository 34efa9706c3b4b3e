"""Loads the Lua files and makes each of them callable; each is one atomic operation.

A script is sent as EVALSHA. After a NOSCRIPT error (a restarted or promoted server) it is sent once as EVAL,
which also loads it. Nothing else is retried here.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol

import hiredis
from redis.exceptions import NoScriptError

HEADER: Final = "#!lua flags=allow-oom\n"
"""Header of a script that frees memory, like an invalidation: it also runs when Redis is out of memory."""

STRICT_HEADER: Final = "#!lua\n"
"""Header of a script that stores more than it frees: Redis refuses it when out of memory."""

READING_HEADER: Final = "#!lua flags=no-writes\n"
"""Header of a script that only reads: it also runs while Redis takes no writes."""

Argument = str | bytes | int | float

pack_command: Final[Callable[[tuple[Argument, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment]  # its stub knows tuples of one element only
"""Encode one command; at a third of what redis-py's own encoder takes."""


def milliseconds(seconds: float) -> int:
    """Return a time to live as Redis takes it: at least 1 ms."""
    return max(1, round(seconds * 1000))


class CommandSender(Protocol):
    """Sends commands: a redis-py client, or a multiplexer."""

    @property
    def execute_command(self) -> Callable[..., Any]:
        """Send one command. A property, as redis-py's method is untyped: (*args, **options)."""


async def command(redis: CommandSender, *parts: Argument) -> Any:
    """Send one command."""
    send: Callable[..., Awaitable[Any]] = redis.execute_command
    return await send(*parts)


class Script:
    """A Lua file in a package's ``lua`` folder, with the shared ``_common.lua`` prepended.

    Example:
        >>> fill = Script("unstale.redis_tier", "fill")
        >>> await fill(redis, keys=["user:42:profile"], args=[lease, value, 60_000])
    """

    __slots__ = ("name", "sha", "text")

    def __init__(self, package: str, name: str, *, allow_oom: bool = True, read_only: bool = False) -> None:
        common = files("unstale.redis_tier").joinpath("lua", "_common.lua").read_text("utf-8")
        body = files(package).joinpath("lua", f"{name}.lua").read_text("utf-8")
        self.name = name
        header = READING_HEADER if read_only else HEADER if allow_oom else STRICT_HEADER
        self.text = header + common + body
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(
        self,
        redis: CommandSender,
        *,
        keys: Sequence[str] | Sequence[bytes] | Sequence[str | bytes],
        args: Sequence[Argument] = (),
    ) -> Any:
        """Run the script; raises redis-py's exceptions. The Lua file's first comment describes the reply."""
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
        """Return the command for a pipeline. Without an earlier `load` it may fail with NoScriptError."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    async def load(self, redis: CommandSender) -> None:
        """Load the script into the server."""
        await command(redis, "SCRIPT LOAD", self.text)

    def __repr__(self) -> str:
        return f"<Script {self.name} {self.sha[:8]}>"

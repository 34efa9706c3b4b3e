"""Scripts and commands of refreshes, with Redis' errors as `RedisUnavailable`."""

from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from unstale.protocol.names import Names
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.scripts import Argument, Script
from unstale_worker.redis.applier import unavailable


class RedisCalls:
    """A connection and the names of one namespace; the base of what refreshes keep in Redis."""

    def __init__(self, multiplexer: Multiplexer, names: Names) -> None:
        self._multiplexer, self._names = multiplexer, names

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        try:
            return await script(self._multiplexer, keys=keys, args=arguments)
        except RedisError as error:
            raise unavailable(error) from error

    async def _command(self, *parts: Argument) -> Any:
        try:
            return await self._multiplexer.execute_command(*parts)
        except RedisError as error:
            raise unavailable(error) from error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._names.refresh}>"


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, at least 0."""
    return max(0, round(seconds * 1000))

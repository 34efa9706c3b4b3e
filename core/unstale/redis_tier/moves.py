"""Notices slots that move while keys are looked for: SCAN does not find the keys that have gone already."""

from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import RedisError

from unstale.errors import RedisUnavailable
from unstale.protocol.names import Names
from unstale.protocol.partitions import slot_of
from unstale.redis_tier.cluster_nodes import holding
from unstale.redis_tier.error_replies import refused

Command = Callable[..., Awaitable[Any]]


class SlotWatch:
    """Compares who serves a partition's slot before and after a SCAN of all keys; one server has no slots.

    Example:
        >>> watch = SlotWatch(multiplexer.execute_command, names)
        >>> await watch.begin()
        >>> ...  # SCAN
        >>> await watch.end()
    """

    __slots__ = ("_before", "_command", "_names")

    def __init__(self, command: Command, names: Names) -> None:
        self._command, self._names, self._before = command, names, ""

    async def begin(self) -> None:
        """Note who serves the slot; raises `RedisUnavailable` if it is moving now."""
        if self._names.cluster:
            self._before = await self._holding()

    async def end(self) -> None:
        """Raise `RedisUnavailable` if the slot moved since `begin`, or began to: keys may be missed."""
        if self._names.cluster and await self._holding() != self._before:
            raise RedisUnavailable("the keys moved to another node while a pattern was looked for; try again")

    async def _holding(self) -> str:
        try:
            nodes: bytes = await self._command("CLUSTER NODES")
        except RedisError as error:
            raise refused(error) from error
        found = holding(nodes.decode("utf-8", "replace"), slot_of(self._names.tag))
        if found is None:
            raise RedisUnavailable(
                "the keys are moving to another node, one by one: a pattern is applied once all are there"
            )
        return found

    def __repr__(self) -> str:
        return f"<SlotWatch {self._names.tag}>"

"""Sends the reports of one cache to Redis, over the connection for the subscriber's own commands."""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable
from typing import Final

from redis.exceptions import RedisError, ResponseError

from unstale.errors import UnstaleError
from unstale.freshness.trust import Freshness
from unstale.protocol.names import Names
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.scripts import Script, milliseconds
from unstale.reporting.content import Content
from unstale.runtime.cancellation import cancelled

logger = logging.getLogger("unstale")

BEATS_KEPT: Final = 3.5
"""Reports that may be missed before an agent counts as gone."""
JITTER: Final = 0.2
"""Share by which the interval varies, so that the agents of a deploy do not report together for ever."""
FIRST: Final = 1.0
"""Longest time in seconds before the first report; it is shortened at random."""
LEAVING: Final = 1.0
"""Longest time in seconds to remove the report of a cache that is closed; otherwise it expires."""

PASSING: Final = ("OOM", "MISCONF", "READONLY", "LOADING", "BUSY")
"""Beginnings of refusals that say nothing about rights."""

_REPORT: Final = Script("unstale.redis_tier", "report", allow_oom=False)


class Reporter:
    """Reports once soon after the start, then every ``interval`` seconds. A report that fails is left out.

    None is tried while the subscription is lost: its failure would make the connection pause, and the replay
    that comes first on a new subscription would be refused and have to be tried again.

    Args:
        multiplexer: The connection.
        names: Names of the Redis keys.
        content: Makes the reports.
        freshness: Tells if Redis is there to be told that the agent leaves.
        subscribed: Returns True while the log is subscribed to.
        interval: Seconds between two reports.
    """

    def __init__(
        self,
        multiplexer: Multiplexer,
        names: Names,
        content: Content,
        freshness: Freshness,
        *,
        subscribed: Callable[[], bool],
        interval: float,
    ) -> None:
        self._multiplexer = multiplexer
        self._names = names
        self._content = content
        self._freshness = freshness
        self._subscribed = subscribed
        self._interval = interval
        self._id = secrets.token_hex(8)
        self._refused = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to report, and return at once."""
        self._task = asyncio.create_task(self._run(), name="unstale-report")

    async def close(self) -> None:
        """Stop, and remove the report if Redis is there."""
        task, self._task = self._task, None
        if task is None:
            return
        # At the end of asyncio.run all tasks are cancelled together, those of the connection too.
        loop_ends = task.done() or task.cancelling() > 0
        await cancelled(task)
        if not loop_ends and self._freshness.attached:
            send, report = self._multiplexer.execute_command, self._names.agent(self._id)
            with contextlib.suppress(RedisError, UnstaleError, TimeoutError):
                async with asyncio.timeout(LEAVING):
                    await asyncio.gather(send("ZREM", self._names.agents, self._id), send("UNLINK", report))

    async def _run(self) -> None:
        pause = min(FIRST, self._interval) * random.random()
        while True:
            await asyncio.sleep(pause)
            if self._subscribed():
                await self.report()
            pause = self._interval * random.uniform(1 - JITTER, 1 + JITTER)

    async def report(self) -> None:
        """Send one report."""
        try:
            await _REPORT(
                self._multiplexer,
                keys=[self._names.agents, self._names.agent(self._id)],
                args=[self._id, self._content.report(), milliseconds(self._interval * BEATS_KEPT)],
            )
            self._refused = False
        except ResponseError as error:
            if not self._refused and not str(error).startswith(PASSING):
                logger.warning(
                    "Redis refuses this agent's reports (%s), so `unstale agents` does not show it: grant "
                    "the rights that docs/security.md lists, or set UNSTALE_REPORT_INTERVAL=0",
                    error,
                )
            self._refused = True
        except (RedisError, UnstaleError):
            pass  # the next one may succeed

    def __repr__(self) -> str:
        return f"<Reporter {self._id} every {self._interval} s>"

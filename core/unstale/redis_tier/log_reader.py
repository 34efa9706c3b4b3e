"""Reads the log and its state, over a separate connection."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from unstale.protocol.messages import Invalidation, decode_log_entry
from unstale.protocol.names import Epoch, LogId, Names
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.error_replies import refused
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.scripts import Script

MOST_ENTRIES: Final = 1_000
"""Log entries in one replay; an agent further behind drops its near cache, which is cheaper."""

CLOCK_STEP: Final = 0.001
"""Seconds by which the state's time, in whole milliseconds, may lie ahead of the server's clock."""

_REPLAY: Final = Script("unstale.redis_tier", "replay")


@dataclass(frozen=True, slots=True)
class Replay:
    """Result of one atomic read of the log.

    Attributes:
        epoch: The current epoch. None means that there is no position, so nothing may be trusted.
        last: Id of the newest entry.
        complete: True if ``entries`` contains every entry after the requested id.
        entries: Log entries, oldest first.
        stands: True if the epoch was begun by the server that answered, in its present run: it was neither
            restarted nor promoted since.
        tells_run: False if that cannot be told, because scripts of this user may not call INFO.
        age: Seconds since the worker began the read that its newest watermark announced, by the clock of
            Redis. None if no watermark was published in this epoch and run, infinite if the clock may not be
            read, negative if it was set back.
        sent: When this process sent the read.
        rules: Hash of the rules in force.
    """

    epoch: Epoch | None
    last: LogId
    complete: bool
    entries: tuple[Invalidation, ...]
    stands: bool = False
    tells_run: bool = True
    age: float | None = None
    sent: float = -math.inf
    rules: str = ""


class LogReader:
    """Reads the log of one namespace. Readers use another connection, so a long replay does not delay them.

    Every method raises `RedisUnavailable` if Redis does not answer or refuses the command.
    """

    def __init__(
        self, connections: Connections, names: Names, *, timeout: float, clock: Callable[[], float]
    ) -> None:
        self.names = names
        self._clock = clock
        self.multiplexer = Multiplexer(connections, timeout=timeout, clock=clock)

    async def close(self) -> None:
        """Close the connection; waiting commands fail with `CacheClosed`."""
        await self.multiplexer.close()

    async def replay(self, after: LogId) -> Replay:
        """Return epoch, newest id and the entries after ``after``; raises `MessageError` if unreadable."""
        sent = self._clock()
        epoch, last, complete, entries, stands, age, rules = await self._replay(after)
        if epoch is None:
            return Replay(None, LogId(last), False, ())
        known = Epoch(epoch.decode("utf-8", "replace"))
        decoded = tuple(
            decode_log_entry(known, int(entry_id.partition(b"-")[0]), fields[1])
            for entry_id, fields in entries
        )
        return Replay(
            known,
            LogId(last),
            bool(complete),
            decoded,
            stands == 1,
            stands >= 0,
            float(age) / 1000 if age else None,
            sent,
            rules.decode("utf-8", "replace"),
        )

    async def entry(self, number: LogId) -> dict[bytes, bytes] | None:
        """Return the fields of one entry; None if the log has it no more."""
        try:
            found = await self.multiplexer.execute_command("XRANGE", self.names.log, number, number)
        except RedisError as error:
            raise refused(error) from error
        if not found:
            return None
        fields = found[0][1]
        return dict(fields) if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))

    async def database(self) -> str | None:
        """Return the identity of the database that the position refers to, or None."""
        try:
            data = await self.multiplexer.execute_command("HGET", self.names.state, "database")
        except RedisError as error:
            raise refused(error) from error
        return None if data is None else data.decode("utf-8", "ignore")

    async def watermark_age(self) -> float | None:
        """Return the seconds since the worker's script last published a watermark, or None if unknown.

        By the clock of Redis, which is read last: the result is no younger than the truth, if that clock does
        not jump. Raises `ResponseError` if the user may not read it.
        """
        ask = self.multiplexer.execute_command
        written, now = await asyncio.gather(ask("HGET", self.names.state, "applied_at"), ask("TIME"))
        try:
            age = int(now[0]) + int(now[1]) / 1e6 - int(written or b"") / 1e3
        except ValueError:
            return None
        return age if age >= -CLOCK_STEP else None

    async def _replay(self, after: LogId) -> Any:
        try:
            return await _REPLAY(
                self.multiplexer, keys=[self.names.state, self.names.log], args=[after, MOST_ENTRIES]
            )
        except RedisError as error:
            raise refused(error) from error

    def __repr__(self) -> str:
        return f"<LogReader {self.names.tag} over {self.multiplexer!r}>"

"""The multiplexer: one connection that sends the commands of many tasks in batches.

A lone command is sent at once. Commands that arrive while a batch is in flight join the next batch, and the
single reads of a batch become one command. A cancelled caller does not affect the others. No command is sent
twice: when the connection breaks, each waiting command fails with `RedisUnavailable`.

After a failure, commands fail at once instead of waiting for a dead server. The first command that arrives
after a short pause also fails, but it starts a reconnect in the background. Once the new connection has
answered a PING, commands are sent again.
"""

import asyncio
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from redis.exceptions import (
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from unstale.errors import CacheClosed, RedisUnavailable
from unstale.protocol.lease import ValueOrLease
from unstale.redis_tier.acquires import MOST_BYTES, AcquireBatch, Acquires, pass_on, seconds_left
from unstale.redis_tier.asking import NoPrimary
from unstale.redis_tier.connections import Connections, RedisConnection
from unstale.redis_tier.error_replies import reason, refused, refuses_writes
from unstale.redis_tier.refusal import answered
from unstale.redis_tier.scripts import Script, pack_command
from unstale.runtime.cancellation import cancelled
from unstale.runtime.step_timeout import StepTimeout

Argument = str | bytes | int | float

MOST_READS: Final = 512
"""Keys in one read. Redis serves no other client while it runs (about 0.2 ms)."""
MOST_PLAIN_READS: Final = 16
"""Keys in one MGET. More keys are read by a script, which stops when their values are large together."""
READ: Final = Script("unstale.redis_tier", "read")
MOST_COMMANDS: Final = 512
"""Other commands in one batch."""
FIRST_PAUSE: Final = 0.05
"""Seconds between a failure and the next attempt to connect; doubles up to `LAST_PAUSE`."""
LAST_PAUSE: Final = 1.0


class Multiplexer:
    """Sends commands over one connection, in batches.

    ``limits`` and ``orphaned`` are used by `acquire`; see `Acquires`.

    Example:
        >>> multiplexer = Multiplexer(Connections("redis://localhost", timeout=1), timeout=1, clock=now)
        >>> await multiplexer.get("user:42:profile")
        >>> await multiplexer.execute_command("PING")
    """

    def __init__(
        self,
        connections: Connections,
        *,
        timeout: float,
        clock: Callable[[], float],
        limits: tuple[Argument, ...] = ("PING",),
        orphaned: Callable[[str, bytes], object] = lambda key, lease: None,
    ) -> None:
        self._connections = connections
        self._timeout = timeout
        self._clock = clock
        self._reads: dict[str, list[asyncio.Future[bytes | None]]] = {}
        self._acquires = Acquires(limits, orphaned)
        self._commands: list[tuple[tuple[Argument, ...], asyncio.Future[Any]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # get_running_loop() is a system call on 3.11
        self._runner: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._pause = 0.0
        self._retry_at = -math.inf
        self._cause: BaseException | None = None
        self._closed = False
        self._renewed = False
        self._read_known = False
        self._limit = StepTimeout(timeout)
        self.connected = False
        """True if the connection is open, as far as is known."""
        self.batches = 0
        """Batches sent."""
        self.breaks = 0
        """Connections that ended without being asked to."""

    def get(self, key: str) -> "asyncio.Future[bytes | None]":
        """Return a future of the value at ``key``: None if it is missing or of another type, as with MGET.

        The future raises `RedisUnavailable`. This is not a coroutine: it is called for every read of Redis,
        and a coroutine would only add a layer that waits.
        """
        future = self._future()
        waiting = self._reads.get(key)
        if waiting is None:
            self._reads[key] = [future]
        else:
            waiting.append(future)
        self._stir()
        return future

    def acquire(
        self, key: str, seconds: float, soft: bool, limits: bool = False, life: bool = False
    ) -> "asyncio.Future[ValueOrLease]":
        """Read ``key``, or acquire its lease for ``seconds`` if it is missing: one atomic round trip.

        Callers in one batch that ask for the same kind of lease on a key share it. When Redis takes no new
        value, the key is only read. The future raises `RedisUnavailable`.
        """
        future: asyncio.Future[ValueOrLease] = self._future()
        self._acquires.add(key, seconds, soft, limits, life, future)
        self._stir()
        return future

    def new_lease(self, *, soft: bool = False) -> bytes:
        """Return a lease that no other process or batch has."""
        return self._acquires.new_lease(soft=soft)

    def request(self, *parts: Argument) -> "asyncio.Future[Any]":
        """Send one command; the future raises the errors of `execute_command`."""
        future = self._future()
        self._commands.append((parts, future))
        self._stir()
        return future

    async def execute_command(self, *parts: Argument) -> Any:
        """Send one command; raises `RedisUnavailable`, or redis-py's ResponseError if Redis refuses it."""
        return await self.request(*parts)

    async def pipeline(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Send several commands in order, in one batch; an error reply is returned as an exception."""
        if len(commands) == 1:  # most batches of a worker; gathering one future takes as long as sending it
            try:
                return [await self.request(*commands[0])]
            except ResponseError as error:
                return [error]
        futures = [self._future() for _ in commands]
        self._commands.extend(zip(commands, futures, strict=True))
        self._stir()
        replies: list[Any] = await asyncio.gather(*futures, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(reply, ResponseError):
                raise reply
        return replies

    def renew(self) -> None:
        """Reconnect before the next batch, because the address may now lead to another server."""
        self._renewed = self.connected

    @property
    def asks_for_primary(self) -> bool:
        """True if each new connection asks Sentinels, or the nodes of a cluster, for the primary."""
        return self._connections.asks_for_primary

    async def close(self) -> None:
        """Close the connection; waiting commands fail with `CacheClosed`."""
        self._closed = True
        runner, self._runner = self._runner, None
        if runner is not None:
            await cancelled(runner)
        self._fail(CacheClosed())

    @property
    def pausing(self) -> bool:
        """True after the connection failed: the next command is refused at once, and not sent."""
        return self._pause > 0

    # --- the batches ----------------------------------------------------------------------------

    def _future(self) -> asyncio.Future[Any]:
        """Return a future for a new command; raises `CacheClosed`, or `RedisUnavailable` during a pause."""
        if self._closed:
            raise CacheClosed()
        if self._pause:
            if self._runner is None and self._clock() >= self._retry_at:
                self._runner = asyncio.create_task(self._run(), name="unstale-multiplexer")
            raise self._unavailable()
        return self._new_future() if self._loop is None else self._loop.create_future()

    def _new_future(self) -> asyncio.Future[Any]:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.create_future()

    def _stir(self) -> None:
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name="unstale-multiplexer")
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        connection = self._connections.new()
        current: list[asyncio.Future[Any]] = []
        try:
            await self._connect(connection)
            if self._pause:
                await self._probe(connection)
            self._pause = 0.0
            self._limit = StepTimeout(self._timeout)
            with self._limit as limit:
                while True:
                    while not self._reads and not self._acquires and not self._commands:
                        self._wake = self._new_future()
                        await self._wake
                        self._wake = None
                        if await connection.can_read():  # nothing was sent, so the server has closed it
                            self._renewed = True
                            self.breaks += 1
                    if self._renewed:
                        await connection.disconnect(nowait=True)
                        await self._connect(connection)
                    limit.begin()
                    await self._batch(connection, current)
                    limit.end()
        except asyncio.CancelledError:
            self._fail(CacheClosed(), current)
            raise
        except Exception as error:
            self.breaks += 1
            self._runner = self._wake = None
            self._cause = error
            self._pause = min(max(self._pause * 2, FIRST_PAUSE), LAST_PAUSE)
            self._retry_at = self._clock() + self._pause * random.uniform(0.5, 1.0)
            self._fail(self._unavailable(), current)
            if not isinstance(error, RedisError | OSError | TimeoutError):
                raise
        finally:
            self.connected = False
            await connection.disconnect(nowait=True)

    async def _connect(self, connection: RedisConnection) -> None:
        async with asyncio.timeout(self._timeout):
            await self._connections.open(connection)
        self.connected, self._renewed = True, False
        self._acquires.connected()
        self._read_known = False

    async def _probe(self, connection: RedisConnection) -> None:
        """Wait for a reply to PING: a dead server may still accept connections."""
        async with asyncio.timeout(self._timeout):
            await connection.send_command("PING")
            await connection.read_response(timeout=math.inf)

    async def _batch(self, connection: RedisConnection, current: list[asyncio.Future[Any]]) -> None:
        """Send the waiting commands and deliver the replies; ``current`` holds unresolved futures."""
        acquires = self._acquires.take(MOST_READS) if self._acquires else []
        reads = self._reads
        if len(reads) > MOST_READS:
            keys = list(reads)
            self._reads = {key: reads[key] for key in keys[MOST_READS:]}
            reads = {key: reads[key] for key in keys[:MOST_READS]}
        else:
            self._reads = {}
        commands, packed_commands = self._take_commands()
        for futures in reads.values():
            current.extend(futures)
        for acquire in acquires:
            current.extend(acquire.futures())
        current.extend(future for _, future in commands)
        self.batches += 1
        packed: list[bytes] = []
        if reads:
            packed.append(self._pack_reads(reads))
        packed += map(self._acquires.pack, acquires)
        packed += packed_commands
        await connection.send_packed_command(packed, check_health=False)
        if reads:
            await self._read_values(connection, reads)
        for acquire in acquires:
            await self._read_acquired(connection, acquire)
        for number, (_, future) in enumerate(commands):
            if number:
                self._limit.begin()  # each reply has the whole time: many large values take longer together
            reply = await self._reply(connection)
            if future.done():
                continue
            if isinstance(reply, ResponseError):
                future.set_exception(reply)
            else:
                future.set_result(reply)
        current.clear()

    def _take_commands(self) -> tuple[list[tuple[tuple[Argument, ...], asyncio.Future[Any]]], list[bytes]]:
        """Remove and encode the next commands, until they are large together."""
        packed: list[bytes] = []
        size = 0
        for (name, *rest), _ in self._commands[:MOST_COMMANDS]:  # as with redis-py, the name may be two words
            words = name.split() if isinstance(name, str) else [name]
            packed.append(pack_command((*words, *rest)))
            size += len(packed[-1])
            if size > MOST_BYTES:
                break
        commands, self._commands = self._commands[: len(packed)], self._commands[len(packed) :]
        return commands, packed

    def _pack_reads(self, reads: dict[str, list[asyncio.Future[bytes | None]]]) -> bytes:
        if len(reads) == 1:
            return pack_command(("GET", *reads))
        if len(reads) <= MOST_PLAIN_READS:
            return pack_command(("MGET", *reads))
        name, script = ("EVALSHA", READ.sha) if self._read_known else ("EVAL", READ.text)
        return pack_command((name, script, len(reads), *reads, MOST_BYTES))

    def _read_again(self, reads: dict[str, list[asyncio.Future[bytes | None]]]) -> None:
        """Queue the callers again, for the next batch."""
        for key, futures in reads.items():
            self._reads.setdefault(key, []).extend(futures)

    async def _read_values(
        self, connection: RedisConnection, reads: dict[str, list[asyncio.Future[bytes | None]]]
    ) -> None:
        try:
            reply = await connection.read_response(timeout=math.inf)
        except (MovedError, ClusterDownError) as error:
            raise RedisConnectionError("this node does not serve the keys any more") from error
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                reply = None
            elif isinstance(error, NoScriptError):
                self._read_known = False
                self._read_again(reads)
                return
            else:
                for futures in reads.values():
                    for future in futures:
                        if not future.done():
                            future.set_exception(refused(error))
                return
        values = [reply] if len(reads) == 1 else reply
        if len(reads) > MOST_PLAIN_READS:
            self._read_known = True
            if len(values) < len(reads):
                rest = list(reads)[len(values) :]
                self._read_again({key: reads.pop(key) for key in rest})
        for futures, value in zip(reads.values(), values, strict=True):
            for future in futures:
                if not future.done():
                    future.set_result(value)

    async def _read_acquired(self, connection: RedisConnection, batch: AcquireBatch) -> None:
        lives = None
        if batch.lives:
            lives = {key: seconds_left(await self._reply(connection)) for key in batch.lives}
        reply = await self._reply(connection)
        limits = await self._reply(connection) if batch.limits else None
        if refuses_writes(reply):  # read the keys in the next batch, without a lease
            for key, futures in batch.waiting.items():
                read = self._new_future()
                self._reads.setdefault(key, []).append(read)
                read.add_done_callback(partial(pass_on, futures, None if lives is None else lives.get(key)))
        elif isinstance(reply, ResponseError):
            self._acquires.refused(batch, reply, refused(reply))
        else:
            known = None if isinstance(limits, ResponseError) else limits
            self._acquires.replied(batch, reply, known, lives)

    async def _reply(self, connection: RedisConnection) -> Any:
        """Return a reply, or the error that Redis answered with."""
        try:
            return await connection.read_response(timeout=math.inf)
        except ReadOnlyError as error:
            # The server was demoted. Only a new connection resolves the address again.
            raise RedisConnectionError("the server is now a replica") from error
        except (MovedError, ClusterDownError) as error:
            raise RedisConnectionError("this node does not serve the keys any more") from error
        except ResponseError as error:
            return error

    def _unavailable(self) -> RedisUnavailable:
        if isinstance(self._cause, NoPrimary):
            text = str(self._cause)
        else:
            place = self._connections.place
            text = answered(self._cause, place) or f"Redis at {place} does not answer ({reason(self._cause)})"
        failure = RedisUnavailable(text)
        failure.__cause__ = self._cause
        return failure

    def _fail(self, error: Exception, current: list[asyncio.Future[Any]] | None = None) -> None:
        waiting = current if current is not None else []
        waiting += [future for futures in self._reads.values() for future in futures]
        waiting += self._acquires.drain()
        waiting += [future for _, future in self._commands]
        self._reads, self._commands = {}, []
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        waiting.clear()

    def __repr__(self) -> str:
        return f"<Multiplexer to {self._connections.place}, {'open' if self.connected else 'closed'}>"

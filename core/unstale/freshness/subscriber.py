"""Follows the log over a separate pub/sub connection, and detects every gap."""

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError

from unstale.errors import MessageError, RedisUnavailable
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.subscriber_log import Moved, NoWatermark, Silence, SubscriberLog
from unstale.freshness.trust import Freshness
from unstale.near_cache.local_state import LocalState
from unstale.protocol.messages import Invalidation, UnknownVersion, Watermark, decode
from unstale.protocol.names import Epoch, LogId
from unstale.redis_tier.connections import Connections, RedisConnection
from unstale.redis_tier.log_reader import LogReader, Replay
from unstale.runtime.cancellation import cancelled, pass_on_cancellation

PING_INTERVAL: Final = 1.0
"""Longest time in seconds between two PINGs. It determines how precise `Cache.staleness` is."""
PINGS_PER_SILENCE: Final = 4
"""Fewest PINGs in ``max_silence``. With the largest watermark interval allowed, half of ``max_silence``, this
leaves a quarter for the round trip to Redis."""
FIRST_PAUSE: Final = 0.05
"""Longest pause in seconds before the first reconnect; doubles up to `LAST_PAUSE`. Each pause is shortened at
random, so that agents do not all reconnect together after Redis has closed their connections."""
LAST_PAUSE: Final = 2.0
LATE: Final = 2.0
"""Seconds without a watermark after which Sentinels, or nodes, are asked if another server is the primary."""
NEWEST: Final = LogId(2**53 - 1)
"""A replay after this id returns the epoch and the newest id, but no entries."""


class Subscriber:
    """Keeps a subscription open and applies the log to the near cache.

    Losing the connection detaches the agent. A new connection subscribes, *then* replays the log, *then*
    reads the messages published meanwhile. The agent is attached again by the replay, if the state shows a
    watermark of a living worker, or else at the next watermark.

    Attributes:
        tried: Set once the first attempt to subscribe and replay has ended, with or without success.
        attached: Set once a watermark has been accepted.
        subscribed: True while subscribed.
        replays: Number of replays, including the one of each connect.
        unreadable: Messages and log entries that could not be decoded; each is treated as a gap.
    """

    def __init__(
        self,
        connections: Connections,
        log: LogReader,
        local: LocalState,
        freshness: Freshness,
        rules: KnownRules,
        *,
        clock: Callable[[], float],
        timeout: float,
        max_silence: float,
        on_subscribed: Callable[[], object],
        on_watermark: Callable[[], object],
    ) -> None:
        """Prepare to follow; `start` begins.

        ``on_subscribed`` is called after each new subscription, before the replay: other connections may now
        lead to another server too. ``on_watermark`` is called after each accepted watermark.
        """
        self._connections = connections
        self._log = log
        self._local = local
        self._freshness = freshness
        self._rules = rules
        self._clock = clock
        self._timeout = timeout
        self._max_silence = max_silence
        self._on_subscribed = on_subscribed
        self._on_watermark = on_watermark
        self._task: asyncio.Task[None] | None = None
        self._report = SubscriberLog(connections, freshness, max_silence=max_silence)
        self._skip_entries = False
        self.tried, self.attached = asyncio.Event(), asyncio.Event()
        self.subscribed = False
        self.replays = 0
        self.unreadable = 0

    def start(self) -> None:
        """Start to follow, and return at once."""
        self._task = asyncio.create_task(self._run(), name="unstale-subscriber")

    async def close(self) -> None:
        """Stop following; the near cache is no longer trusted."""
        task, self._task = self._task, None
        if task is not None:
            await cancelled(task)
        self._freshness.lost()

    async def _run(self) -> None:
        pause, answered = 0.0, False
        while True:
            # A connection on which no watermark came proves that the state does not tell whether one will.
            by_state, begun, answered = not answered, self._clock(), False
            try:
                await self._follow_once(by_state=by_state)
            except (
                Exception
            ) as error:  # reconnect after any error: a dead subscriber would leave caches stale
                pass_on_cancellation()
                cause = _first(error)
                answered = isinstance(cause, NoWatermark)
                self._report.lost(cause, first=not self.tried.is_set())
                lasted = self._clock() - begun >= LAST_PAUSE
                pause = FIRST_PAUSE if lasted else min(max(pause * 2, FIRST_PAUSE), LAST_PAUSE)
            finally:
                self.subscribed = False
                self._freshness.lost(answered=answered)
                self.tried.set()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _follow_once(self, *, by_state: bool) -> None:
        connection = self._connections.new()
        try:
            async with asyncio.timeout(self._timeout):
                await self._connections.open(connection)
                subscribed = self._clock()
                await connection.send_command(self._log.names.subscribe, self._log.names.channel)
                reply = await connection.read_response(timeout=math.inf)
            if reply[0] not in (b"subscribe", b"ssubscribe"):
                raise RedisConnectionError("Redis did not confirm the subscription")
            self.subscribed = True
            self._freshness.doubted()  # the other connections may now lead to another server too
            self._on_subscribed()
            again = self._freshness.epoch is not None
            found = await self._first_replay()
            self._freshness.connected(subscribed, doubtful=again and not found.tells_run)
            if self._freshness.epoch is None:
                self._report.found_no_epoch()
            self._freshness.proved(-math.inf)
            age = found.age if by_state else None
            if age is not None and self._freshness.shown(age, sent=found.sent, subscribed=subscribed):
                self._accepted()
            else:
                await self._prove()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._ping(connection), name="unstale-ping")
                tasks.create_task(self._prove_forever(), name="unstale-prove")
                self.tried.set()
                await self._listen(connection)
        finally:
            await connection.disconnect(nowait=True)

    async def _ping(self, connection: RedisConnection) -> None:
        begun = self._clock()
        while True:
            if self._freshness.unanswered > self._max_silence:
                raise Silence(f"no answer to a PING for {self._max_silence} s")
            async with asyncio.timeout(self._max_silence):
                await connection.send_command("PING", str(self._freshness.ping()))
            self._report.silent()
            if self._freshness.watermark_age > LATE and await self._connections.led_elsewhere(connection):
                raise Silence("another server is the primary now")
            if not self._freshness.attached and self._clock() - begun > self._max_silence:
                raise NoWatermark(f"no watermark for {self._max_silence} s")
            await asyncio.sleep(min(PING_INTERVAL, self._max_silence / PINGS_PER_SILENCE))

    async def _prove_forever(self) -> None:
        while True:
            await asyncio.sleep(min(PING_INTERVAL, self._max_silence / PINGS_PER_SILENCE))
            await self._prove()

    async def _prove(self) -> None:
        """Read from the state when the worker last published a watermark: see `Freshness.proved`."""
        sent = self._clock()
        try:
            age = await self._log.watermark_age()
        except NoPermissionError as error:
            self._freshness.proved(math.inf)
            self._report.once(
                "proof",
                "watermarks are not compared with the state, because this user of REDIS_URL may not read it "
                f"({error}): grant HGET and TIME, as docs/security.md says",
            )
        except (RedisUnavailable, ResponseError):
            pass  # the next reading, or the connection itself, will tell
        else:
            if age is not None:
                self._freshness.proved(sent - age)

    async def _listen(self, connection: RedisConnection) -> None:
        while True:
            reply = await connection.read_response(timeout=math.inf)
            if reply[0] in (b"message", b"smessage"):
                await self._hear(reply[2])
            elif reply[0] == b"pong":
                self._freshness.pong(int(reply[1]))
            elif reply[0] == b"sunsubscribe":
                raise Silence("this node does not serve the channel any more")

    async def _hear(self, payload: bytes) -> None:
        try:
            message = decode(payload)
        except MessageError as error:
            self.unreadable += 1
            self._report.once("unreadable", f"a message on {self._log.names.channel} is unreadable: {error}")
            await self._close_gap()
            return
        match message:
            case Invalidation():
                await self._invalidate(message)
            case Watermark():
                await self._watermark(message)
            case UnknownVersion(version):
                self._freshness.muted()
                self._report.once(
                    "version", f"messages of version {version!r} cannot be read: upgrade this agent"
                )

    async def _invalidate(self, message: Invalidation) -> None:
        freshness = self._freshness
        if message.epoch != freshness.epoch:
            await self._other_epoch(message.epoch, message.id)
            return
        if message.prev != freshness.last:
            await self._close_gap()
        self._local.drop(message.keys, message.patterns)
        if freshness.epoch == message.epoch:
            freshness.advanced(message.id)

    async def _watermark(self, message: Watermark) -> None:
        freshness = self._freshness
        if message.epoch != freshness.epoch:
            await self._other_epoch(message.epoch, message.last)
            if message.epoch != freshness.epoch:
                return
        elif message.last != freshness.last:
            await self._close_gap()
        if message.rules != self._rules.hash:
            await self._rules.load()
        if freshness.unproved:
            await self._prove()
        reached = freshness.epoch == message.epoch and freshness.last >= message.last
        if reached and freshness.heard(message):
            self._accepted()
            self._on_watermark()

    def _accepted(self) -> None:
        self.attached.set()
        self._report.attached()

    async def _other_epoch(self, epoch: Epoch, last: LogId) -> None:
        """Handle a message whose epoch is not the followed one.

        Replay the state. If no epoch was followed before, continue with the new epoch. If another epoch was
        followed, raise `Moved`: further messages on this connection may come from a server that was demoted.
        A message of an epoch that the state has already left is ignored.
        """
        freshness, before = self._freshness, self._freshness.epoch
        stands = await self._replay()
        if freshness.epoch == epoch and before is None:
            freshness.advanced(last)  # no epoch was followed before, so nothing was missed
        elif freshness.epoch == epoch or not (stands or freshness.epoch is None):
            raise Moved

    async def _close_gap(self) -> None:
        """Replay the missed entries; raises `Moved` if this is no longer the followed log.

        Further messages on this connection may then come from a server that was demoted.
        """
        if not await self._replay() and self._freshness.epoch is not None:
            raise Moved

    async def _first_replay(self) -> Replay:
        """Replay on a new connection, and read the rules meanwhile; each opens a connection of its own."""
        rules, found = await asyncio.gather(self._rules.load(), self._read_log(), return_exceptions=True)
        for failed in (rules, found):  # no TaskGroup: before Python 3.13 it leaves this task cancelled
            if isinstance(failed, BaseException):
                raise failed
        assert isinstance(found, Replay)
        if found.age is not None and found.rules != self._rules.hash:
            await self._rules.load()  # they were published after that read
        if not found.tells_run:  # it may be another server, where a lost id has come again
            found = replace(found, complete=False)
        self._process(found)
        return found

    async def _replay(self) -> bool:
        """Replay the log from `Freshness.last`; return True if it is still the same log (epoch and run).

        Raises `Unavailable`, which ends this connection.
        """
        return self._process(await self._read_log())

    async def _read_log(self) -> Replay:
        """Read the log from `Freshness.last`, by one atomic read of Redis; raises `Unavailable`."""
        self.replays += 1
        # In a pause nothing is sent, so that no entry can have taken too long.
        skip, self._skip_entries = self._skip_entries, self._skip_entries or not self._log.multiplexer.pausing
        try:
            # If the last replay failed, its entries took too long: skip them.
            found = await self._log.replay(NEWEST if skip else self._freshness.last)
        except MessageError as error:
            self.unreadable += 1  # the next replay skips the entries
            self._report.once("entry", f"the log holds an unreadable entry: {error}")
            return Replay(None, self._freshness.last, False, ())
        self._skip_entries = False
        return replace(found, complete=found.complete and not skip)

    def _process(self, found: Replay) -> bool:
        """Process what a replay has read; return True if it is still the same log (epoch and run)."""
        freshness = self._freshness
        known = found.epoch is not None and found.epoch == freshness.epoch and found.last >= freshness.last
        if known and found.complete:
            for entry in found.entries:
                self._local.drop(entry.keys, entry.patterns)
            freshness.advanced(found.last)
        else:
            freshness.adopted(found.epoch, found.last)
        if known and found.age is not None:
            freshness.recognized()
        else:  # another server, or its data went back: it may hold values older than what was processed here
            freshness.doubted()
        return known and found.stands

    def __repr__(self) -> str:
        return f"<Subscriber {'subscribed' if self.subscribed else 'not subscribed'}, {self._freshness!r}>"


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group of tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

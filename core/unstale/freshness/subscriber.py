"""Follows the log over its own pub/sub connection and notices any gap."""

import asyncio
import math
import random
from collections.abc import Callable
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError

from unstale.errors import MessageError
from unstale.freshness.other_databases import LOOK_AGAIN, Foreign
from unstale.freshness.published_rules import Rulebook
from unstale.freshness.subscriber_log import Moved, NoWatermark, Silence, Teller
from unstale.freshness.tracker import Follower, Trust
from unstale.near_cache.local_state import NearTier
from unstale.protocol.messages import Invalidation, UnknownVersion, Watermark, decode
from unstale.protocol.names import Epoch, LogId
from unstale.redis_tier.connections import Connections, RedisConnection
from unstale.redis_tier.tier import RedisTier
from unstale.runtime import failpoints
from unstale.runtime.cancellation import cancelled, pass_on_cancellation

PING_INTERVAL: Final = 1.0
"""Longest time in seconds between two PINGs; `staleness` is finer by nothing else."""
PINGS_PER_SILENCE: Final = 4
"""Fewest PINGs in ``max_silence``: with a watermark interval of half of it, the largest allowed, a quarter is
left for the way to Redis and back."""
FIRST_PAUSE: Final = 0.05
"""Seconds, at most, before the first attempt to connect again; doubles up to `LAST_PAUSE`. Each is shortened
at random, so that agents do not come back together: Redis ends all their connections at the same moment."""
LAST_PAUSE: Final = 2.0
LATE: Final = 2.0
"""Seconds without a watermark after which the sentinels are asked whether another server leads by now."""
NEWEST: Final = LogId(2**53 - 1)
"""Replay after this id brings epoch and newest id, and no entries."""


class Subscriber:
    """Keeps one subscription alive for as long as it runs, and the near cache true to it.

    Any lost connection detaches; a new one subscribes, *then* replays the log, *then* reads what was
    published meanwhile, and is trusted from the next watermark on.
    """

    def __init__(
        self,
        connections: Connections,
        tier: RedisTier,
        near: NearTier,
        follower: Follower,
        rulebook: Rulebook,
        *,
        clock: Callable[[], float],
        timeout: float,
        max_silence: float,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._tier = tier
        self._near = near
        self._follower = follower
        self._rulebook = rulebook
        self._timeout = timeout
        self._max_silence = max_silence
        self._task: asyncio.Task[None] | None = None
        self._tell = Teller(connections, follower, max_silence=max_silence)
        self._skip_entries = False
        self._foreign = Foreign(clock=clock)
        self._subscribed_at = -math.inf
        self.on_subscribed: Callable[[], object] = lambda: None
        """Called after each new subscription, before the replay: other connections may lead elsewhere."""
        self.on_watermark: Callable[[], object] = lambda: None
        """Called after each watermark that counted."""
        self.tried = asyncio.Event()
        """Set once the first attempt to subscribe and replay ended, well or not."""
        self.subscribed = False
        """Whether the subscription stands."""
        self.replays = 0
        """Replays done, the one of each connect included."""
        self.unreadable = 0
        """Messages and log entries that could not be decoded; each was treated as a gap."""

    def start(self) -> None:
        """Begin to follow; returns at once."""
        self._task = asyncio.create_task(self._run(), name="unstale-subscriber")

    async def close(self) -> None:
        """Stop following; the near cache is not trusted any more."""
        task, self._task = self._task, None
        if task is not None:
            await cancelled(task)
        self._follower.connection_lost()

    async def _run(self) -> None:
        pause = 0.0
        while True:
            begun, answered = self._clock(), False
            try:
                await self._follow_once()
            except Exception as error:  # whatever it was, deafness ends in another attempt, never in silence
                pass_on_cancellation()
                cause = _first(error)
                answered = isinstance(cause, NoWatermark)
                self._tell.lost(cause, first=not self.tried.is_set())
                lasted = self._clock() - begun >= LAST_PAUSE
                pause = FIRST_PAUSE if lasted else min(max(pause * 2, FIRST_PAUSE), LAST_PAUSE)
            finally:
                self.subscribed = False
                self._follower.connection_lost(answered=answered)
                self.tried.set()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _follow_once(self) -> None:
        connection = self._connections.new()
        try:
            async with asyncio.timeout(self._timeout):
                await self._connections.open(connection)
                await connection.send_command("SUBSCRIBE", self._tier.names.channel)
                reply = await connection.read_response(timeout=math.inf)
            if reply[0] != b"subscribe":
                raise RedisConnectionError("Redis did not confirm the subscription")
            self.subscribed, self._subscribed_at = True, self._clock()
            self._follower.doubt()  # from here on the other connections may lead elsewhere, too
            self.on_subscribed()
            await self._rulebook.load()
            await self._replay()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._ping(connection), name="unstale-ping")
                self.tried.set()
                await self._listen(connection)
        finally:
            await connection.disconnect(nowait=True)

    async def _ping(self, connection: RedisConnection) -> None:
        begun = self._clock()
        while True:
            if self._follower.unanswered > self._max_silence:
                raise Silence(f"no answer to a PING for {self._max_silence} s")
            async with asyncio.timeout(self._max_silence):
                await connection.send_command("PING", str(self._follower.ping()))
            self._tell.silent()
            if self._follower.watermark_age > LATE and await self._connections.led_elsewhere(connection):
                raise Silence("the sentinels name another primary")
            if self._follower.trust is not Trust.ATTACHED and self._clock() - begun > self._max_silence:
                raise NoWatermark(f"no watermark for {self._max_silence} s")
            await asyncio.sleep(min(PING_INTERVAL, self._max_silence / PINGS_PER_SILENCE))

    async def _listen(self, connection: RedisConnection) -> None:
        while True:
            reply = await connection.read_response(timeout=math.inf)
            if reply[0] == b"message":
                await self._hear(reply[2])
            elif reply[0] == b"pong":
                self._follower.pong(int(reply[1]))

    async def _hear(self, payload: bytes) -> None:
        if failpoints.on:
            await failpoints.reach("subscriber.before_message")
        try:
            message = decode(payload)
        except MessageError as error:
            self.unreadable += 1
            self._tell.once("unreadable", f"a message on {self._tier.names.channel} is unreadable: {error}")
            await self._close_gap()
            return
        match message:
            case Invalidation():
                await self._invalidate(message)
            case Watermark():
                await self._watermark(message)
            case UnknownVersion(version):
                self._follower.mute()
                self._tell.once(
                    "version", f"messages of version {version!r} are not understood: upgrade this agent"
                )

    async def _invalidate(self, message: Invalidation) -> None:
        follower = self._follower
        if message.epoch != follower.epoch:
            await self._other_epoch(message.epoch, message.id)
            return
        if message.prev != follower.last:
            await self._close_gap()
        self._near.drop(message.keys, message.patterns, by=message.id)
        if follower.epoch == message.epoch:
            follower.last = message.id

    async def _watermark(self, message: Watermark) -> None:
        follower = self._follower
        if message.epoch != follower.epoch:
            await self._other_epoch(message.epoch, message.last)
            if message.epoch != follower.epoch:
                return
        elif message.last != follower.last:
            await self._close_gap()
        if message.rules != self._rulebook.hash:
            await self._rulebook.load()
        reached = follower.epoch == message.epoch and follower.last >= message.last
        if reached and follower.watermark(message):
            self._tell.attached()
            self.on_watermark()

    async def _other_epoch(self, epoch: Epoch, last: LogId) -> None:
        """A message of an epoch that is not followed: adopt it if the state in this database is of it.

        Pub/sub knows no databases: the message may be of a worker on another number of the same server, which
        removes nothing here. Raises `Moved` if another history was followed until now, and when an epoch is
        found foreign for the first time: a new connection tells whether this is still the server to ask. One
        that is new itself hears of all the workers there are: it would take as many others as there are.
        """
        follower, before = self._follower, self._follower.epoch
        if self._foreign.known(epoch):
            return
        stands = await self._replay()
        if follower.epoch == epoch:
            self._foreign.discard(epoch)
            if before is None:  # nothing was followed, so nothing can be left behind: go on in line
                follower.last = last
                return
            raise Moved
        news = self._foreign.add(epoch)
        if not news:
            self._tell.foreign(self._tier.names.state)
        if follower.epoch is None:
            return
        if not stands or (news and self._clock() - self._subscribed_at >= LOOK_AGAIN):
            raise Moved
        if news:  # on a new connection: believe nothing until the own worker is heard on it
            follower.doubt()

    async def _close_gap(self) -> None:
        """Replay while messages come in; raises `Moved` when this is not the log that was followed.

        What else waits on this connection may then be of a server that was left behind.
        """
        if not await self._replay() and self._follower.epoch is not None:
            raise Moved

    async def _replay(self) -> bool:
        """Catch up with the log in one atomic read; whether it is the one that was followed.

        Raises `Unavailable`, which ends this connection.
        """
        follower = self._follower
        self.replays += 1
        if failpoints.on:
            await failpoints.reach("subscriber.before_replay")
        skip, self._skip_entries = self._skip_entries, True
        try:
            # The last one did not come through: so much that it takes too long. Then without the entries.
            found = await self._tier.replay(NEWEST if skip else follower.last)
        except MessageError as error:
            self.unreadable += 1  # and the next replay does without the entries
            self._tell.once("entry", f"the log holds an unreadable entry: {error}")
            follower.adopt(None, follower.last)
            return False
        self._skip_entries = False
        if failpoints.on:
            await failpoints.reach("subscriber.after_replay")
        known = found.epoch is not None and found.epoch == follower.epoch and found.last >= follower.last
        if known and found.complete and not skip:
            for entry in found.entries:
                self._near.drop(entry.keys, entry.patterns, by=entry.id)
            follower.last = found.last
        else:
            follower.adopt(found.epoch, found.last)
        if known and found.stands:
            follower.recognize()
        else:  # another server, or it went back: it may hold older values than what was processed here
            follower.doubt()
        return known and found.stands

    def __repr__(self) -> str:
        return f"<Subscriber {'subscribed' if self.subscribed else 'not subscribed'}, {self._follower!r}>"


def _first(error: BaseException) -> BaseException:
    """What ended a group of tasks first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

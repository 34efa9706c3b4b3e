"""Election of one leader with a lease and a fencing token; the other workers stand by."""

import asyncio
import secrets
from typing import Final

import structlog
from redis.exceptions import RedisError

from unstale.errors import LeadershipLost, RedisUnavailable
from unstale.protocol.names import Names
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.partition_count import OtherPartitions
from unstale.redis_tier.scripts import Script
from unstale.runtime import failpoints
from unstale_worker.redis.applier import unavailable
from unstale_worker.redis.claim import NamespaceTaken, claim

log = structlog.get_logger("unstale.leadership")

ACQUIRE: Final = Script("unstale_worker.redis", "acquire")
RENEW: Final = Script("unstale_worker.redis", "renew")
RESIGN: Final = Script("unstale_worker.redis", "resign")

RENEWALS: Final = 4
"""Renewals within the life of a lease, so that three in a row may be lost."""
RECONNECT_EVERY: Final = 10.0
"""Seconds after which the lease is asked for over a new connection. After a failover the address leads to
another server, and the old one may still answer on connections that are open."""
RECONNECT_EVERY_WITH_SENTINELS: Final = 1.0
"""The same with Sentinel, which names the primary for every new connection. ``SENTINEL FAILOVER`` leaves the
old primary in office for some ten seconds, and what is written there is lost."""


class Leadership:
    """The lease in Redis that names the leader, and the fence, which grows with each leadership.

    The position check of the applier's scripts makes a paused old leader harmless. The fence stops it, and
    the lease keeps two workers from doing the same work.

    Example:
        >>> leadership = Leadership(multiplexer, Names(), ttl=2.0)
        >>> fence = await leadership.try_acquire()
    """

    def __init__(self, multiplexer: Multiplexer, names: Names, *, ttl: float, partitions: int = 1) -> None:
        self._multiplexer, self._names, self._ttl = multiplexer, names, ttl
        self._partitions, self._least = partitions, 0
        self._token = secrets.token_hex(16)
        self._reconnected_at = 0.0
        self.fence = 0
        """The fence of the last leadership; 0 before the first."""
        self.consumer = ""
        """Name of this Redis and namespace among those that read the same outbox: 8 hex digits."""

    def __repr__(self) -> str:
        return f"<Leadership fence={self.fence}>"

    async def try_acquire(self) -> int:
        """Acquire the lease; returns the fence, or 0 while another holds it.

        Raises `RedisUnavailable`, `NamespaceTaken` if another namespace uses this Redis database, and
        `OtherPartitions` if the number of partitions is another one.
        """
        self._reconnect_if_due()
        await claim(self._multiplexer, self._names)
        try:
            reply = await ACQUIRE(
                self._multiplexer,
                keys=[self._names.leader, self._names.state],
                args=[
                    *(self._token, self._milliseconds, secrets.token_hex(4)),
                    *((self._partitions, self._least) if self._names.cluster else ()),
                ],
            )
        except RedisError as error:
            raise unavailable(error) from error
        if reply[0] < 0:
            raise OtherPartitions(self._names, stored=bytes(reply[1]).decode(), given=self._partitions)
        if reply[0]:
            self.fence, self.consumer = int(reply[0]), bytes(reply[1]).decode()
        return int(reply[0])

    @property
    def pause(self) -> float:
        """Seconds between two attempts or renewals."""
        return self._ttl / RENEWALS

    def exceed(self, fence: int) -> None:
        """Take a fence above this one the next time: a partition has it, and the leader's slot lost it."""
        self._least = max(self._least, fence)

    async def keep(self) -> None:
        """Renew until cancelled; raises `LeadershipLost` if the lease is another's, or expired.

        With several partitions it need not be renewed as long as the node of the lease is away: the other
        nodes need a leader, and the partitions themselves tell if there is another one.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._ttl
        while True:
            await asyncio.sleep(self.pause)
            if failpoints.on:
                await failpoints.reach("leadership.before_renew")
            self._reconnect_if_due()
            asked = loop.time()
            try:
                await claim(self._multiplexer, self._names)
                kept = await RENEW(
                    self._multiplexer,
                    keys=[self._names.leader, self._names.state],
                    args=[self._token, self._milliseconds, str(self.fence)],
                )
            except NamespaceTaken as taken:
                raise LeadershipLost(str(taken)) from taken
            except (RedisError, RedisUnavailable) as error:
                if loop.time() >= until and self._partitions == 1:
                    raise LeadershipLost("the lease could not be renewed before it expired") from error
                continue
            if not kept:
                raise LeadershipLost("another worker holds the lease, or Redis lost it")
            until = asked + self._ttl

    async def resign(self) -> None:
        """Release the lease, so that a standby need not wait until it expires. Errors cost only that time."""
        try:
            await RESIGN(self._multiplexer, keys=[self._names.leader], args=[self._token])
        except (RedisError, RedisUnavailable):
            log.info("the lease could not be released; it expires by itself", seconds=self._ttl)

    def _reconnect_if_due(self) -> None:
        now = asyncio.get_running_loop().time()
        every = RECONNECT_EVERY_WITH_SENTINELS if self._multiplexer.asks_for_primary else RECONNECT_EVERY
        if now - self._reconnected_at > every:
            self._reconnected_at = now
            self._multiplexer.renew()

    @property
    def session_name(self) -> str:
        """Name of this leadership's Postgres sessions: ``<consumer>:<fence>``."""
        return f"{self.consumer}:{self.fence}"

    @property
    def _milliseconds(self) -> int:
        return round(self._ttl * 1000)

"""One leader, with a fencing token: the others stand by."""

import asyncio
import secrets
from typing import Final

import structlog
from redis.exceptions import RedisError

from unstale.errors import LeadershipLost, RedisUnavailable
from unstale.protocol.names import Names
from unstale.redis_tier.multiplexer import Lane
from unstale.redis_tier.scripts import Script
from unstale.runtime import failpoints
from unstale_worker.redis.applier import unavailable

log = structlog.get_logger("unstale.leadership")

ACQUIRE: Final = Script("unstale_worker.redis", "acquire")
RENEW: Final = Script("unstale_worker.redis", "renew")
RESIGN: Final = Script("unstale_worker.redis", "resign")

RENEWALS: Final = 4
"""Renewals within the life of a lease: three may be lost."""


LOOK_AGAIN: Final = 10.0
"""Seconds after which the lease is asked for over a new connection: after a failover the address leads to
another server, and the old one may go on answering whoever is still connected to it."""
LOOK_AGAIN_AT_SENTINELS: Final = 1.0
"""The same where sentinels know, and are asked each time: ``SENTINEL FAILOVER`` leaves the old primary in
office for some ten seconds, and what is written there is lost."""


class Leadership:
    """The lease in Redis that names the leader; the fence grows with each leadership.

    The position check of the applier's scripts is what makes a paused old leader harmless; the fence keeps
    it quiet, and the lease keeps two workers from doing the same work.

    Example:
        >>> leadership = Leadership(lane, Names(), ttl=2.0)
        >>> fence = await leadership.try_acquire()
    """

    def __init__(self, lane: Lane, names: Names, *, ttl: float) -> None:
        self._lane, self._names, self._ttl = lane, names, ttl
        self._token = secrets.token_hex(16)
        self._looked_at = 0.0
        self.fence = 0
        """The fence of the last leadership; 0 before the first."""
        self.consumer = ""
        """Names this Redis and namespace among those that read the same outbox: 8 hex digits."""

    def __repr__(self) -> str:
        return f"<Leadership fence={self.fence}>"

    async def try_acquire(self) -> int:
        """Take the lease; returns the fence, or 0 while another holds it. Raises `RedisUnavailable`."""
        self._look_again()
        try:
            reply = await ACQUIRE(
                self._lane,
                keys=[self._names.leader, self._names.state],
                args=[self._token, self._milliseconds, secrets.token_hex(4)],
            )
        except RedisError as error:
            raise unavailable(error) from error
        if reply[0]:
            self.fence, self.consumer = int(reply[0]), bytes(reply[1]).decode()
        return int(reply[0])

    @property
    def pause(self) -> float:
        """Seconds between two attempts or renewals."""
        return self._ttl / RENEWALS

    async def keep(self) -> None:
        """Renew for ever; raises `LeadershipLost` when the lease is another's or ran out unrenewed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._ttl
        while True:
            await asyncio.sleep(self.pause)
            if failpoints.on:
                await failpoints.reach("leadership.before_renew")
            self._look_again()
            asked = loop.time()
            try:
                kept = await RENEW(
                    self._lane,
                    keys=[self._names.leader, self._names.state],
                    args=[self._token, self._milliseconds, str(self.fence)],
                )
            except (RedisError, RedisUnavailable) as error:
                if loop.time() >= until:
                    raise LeadershipLost("the lease could not be renewed before it ran out") from error
                continue
            if not kept:
                raise LeadershipLost("another worker holds the lease, or Redis lost it")
            until = asked + self._ttl

    async def resign(self) -> None:
        """Give the lease up, so that a standby need not wait until it runs out; errors cost that time."""
        try:
            await RESIGN(self._lane, keys=[self._names.leader], args=[self._token])
        except (RedisError, RedisUnavailable):
            log.info("the lease could not be given up; it runs out by itself", seconds=self._ttl)

    def _look_again(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._looked_at > (LOOK_AGAIN_AT_SENTINELS if self._lane.asks_sentinels else LOOK_AGAIN):
            self._looked_at = now
            self._lane.renew()

    @property
    def session_name(self) -> str:
        """What this leadership's Postgres sessions are called: ``<consumer>:<fence>``."""
        return f"{self.consumer}:{self.fence}"

    @property
    def _milliseconds(self) -> int:
        return round(self._ttl * 1000)

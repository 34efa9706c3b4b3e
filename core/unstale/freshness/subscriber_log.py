"""Log lines of the subscriber: attached, detached, and what is wrong with a message, each logged once."""

import logging

from redis.exceptions import RedisError

from unstale.errors import Unavailable
from unstale.freshness.trust import Freshness, Trust
from unstale.redis_tier.connections import Connections

logger = logging.getLogger("unstale")


class Silence(Exception):
    """Neither PONG nor watermark came for ``max_silence``; the connection is replaced by a new one."""


class NoWatermark(Silence):
    """The connection answers, but no watermark came.

    There is no worker, or a failover left this server behind. Only a new connection tells which.
    """


class Moved(Exception):
    """Another epoch or run began, or the log went back.

    Perhaps this server was demoted and learns of it late, through replication, while it answers PINGs at
    once. A new connection asks for its role.
    """


class SubscriberLog:
    """Logs each change of trust, and everything else the first time."""

    def __init__(self, connections: Connections, freshness: Freshness, *, max_silence: float) -> None:
        self._connections = connections
        self._freshness = freshness
        self._max_silence = max_silence
        self._logged: set[str] = set()
        self._was_attached = False

    def attached(self) -> None:
        """Log that the agent is attached, if it was not: a watermark counted."""
        if not self._was_attached and self._freshness.trust is Trust.ATTACHED:
            self._was_attached = True
            place, staleness = self._connections.place, self._freshness.staleness
            logger.info("attached to %s: staleness %.3f s", place, staleness)

    def silent(self) -> None:
        """Log that the agent is detached, if it was attached: some time went by."""
        if self._was_attached and self._freshness.trust is not Trust.ATTACHED:
            self._was_attached = False
            logger.warning(
                "detached: no watermark for %.1f s. Is the worker running, with the same UNSTALE_NAMESPACE "
                "and the same database number (%d) in its REDIS_URL?",
                self._max_silence,
                self._connections.database,
            )

    def lost(self, error: BaseException, *, first: bool) -> None:
        """Log that the connection ended by ``error``; ``first``: it was the first one."""
        place = self._connections.place
        if isinstance(error, Moved):
            logger.info("another epoch at %s: reconnecting", place)
        elif isinstance(error, NoWatermark) and not self._was_attached:
            self.once(
                "no watermark",
                f"detached: connected to {place}, but no watermark came. Is a worker running, with the same "
                f"UNSTALE_NAMESPACE and the same database number ({self._connections.database}) in its "
                "REDIS_URL?",
            )
        else:
            known = isinstance(error, RedisError | Unavailable | OSError | TimeoutError | Silence)
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if self._was_attached or first or not known:
                details = None if known else error
                logger.warning("detached: lost Redis at %s (%s)", place, text, exc_info=details)
        self._was_attached = False

    def once(self, what: str, sentence: str) -> None:
        """Log ``sentence``, unless something was logged about ``what`` before."""
        if what not in self._logged:
            self._logged.add(what)
            logger.warning(sentence)

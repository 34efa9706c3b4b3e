"""What a subscriber says in the log: attached, detached, and what is odd about its messages, each once."""

import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from unstale.errors import Unavailable
from unstale.freshness.tracker import Follower, Trust

if TYPE_CHECKING:
    from unstale.redis_tier.connections import Connections

logger = logging.getLogger("unstale")


class Silence(Exception):
    """Neither PONG nor watermark came for ``max_silence``; the connection is given up for a new one."""


class NoWatermark(Silence):
    """The connection answers, and no watermark came: no worker, or a server left behind by a failover, which
    only a new connection tells."""


class Moved(Exception):
    """Another epoch or run began, or the log went back. Perhaps this server was demoted and hears of it late,
    through replication, while it answers PINGs at once; a new connection asks for its role."""


class Teller:
    """Says a change of trust when it happens, and everything else the first time."""

    def __init__(self, connections: "Connections", follower: Follower, *, max_silence: float) -> None:
        self._connections = connections
        self._follower = follower
        self._max_silence = max_silence
        self._told: set[str] = set()
        self._was_attached = False

    def attached(self) -> None:
        """A watermark counted."""
        if not self._was_attached and self._follower.trust is Trust.ATTACHED:
            self._was_attached = True
            place, staleness = self._connections.place, self._follower.staleness
            logger.info("attached to %s: staleness %.3f s", place, staleness)

    def silent(self) -> None:
        """Some time went by."""
        if self._was_attached and self._follower.trust is not Trust.ATTACHED:
            self._was_attached = False
            logger.warning("detached: no watermark for %.1f s; is the worker running?", self._max_silence)

    def lost(self, error: BaseException, *, first: bool) -> None:
        """The connection ended by ``error``; ``first``: it was the first there was."""
        place = self._connections.place
        if isinstance(error, Moved):
            logger.info("another epoch at %s: connecting anew", place)
        else:
            known = isinstance(error, RedisError | Unavailable | OSError | TimeoutError | Silence)
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if self._was_attached or first or not known:
                details = None if known else error
                logger.warning("detached: lost Redis at %s (%s)", place, text, exc_info=details)
        self._was_attached = False

    def foreign(self, state: str) -> None:
        """An epoch that is not that of ``state`` is heard again and again."""
        place, attached = self._connections.place, self._follower.trust is Trust.ATTACHED
        here = f"{state} in database {self._connections.database}, which REDIS_URL names here,"
        if attached:
            sentence = (
                f"another worker of this namespace uses another database of the Redis at {place}: messages "
                f"that are not of {here} are ignored; give one of the two another UNSTALE_NAMESPACE"
            )
        else:
            sentence = (
                f"the worker that is heard uses another database of the Redis at {place}: {here} is not its, "
                "so this agent stays detached; give agents and worker a REDIS_URL with the same number at "
                "its end"
            )
        self.once(f"foreign, attached {attached}", sentence)

    def once(self, what: str, sentence: str) -> None:
        """Say ``sentence`` unless something was said of ``what`` before."""
        if what not in self._told:
            self._told.add(what)
            logger.warning(sentence)

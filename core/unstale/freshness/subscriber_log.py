"""Log messages of the subscriber: attached, detached, and problems, which are logged once."""

import logging

from redis.exceptions import RedisError

from unstale.errors import Unavailable
from unstale.freshness.trust import Freshness, Trust
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.refusal import answered

logger = logging.getLogger("unstale")


class Silence(Exception):
    """No PONG or no watermark for ``max_silence``, or another primary; the connection is replaced."""


class NoWatermark(Silence):
    """The connection answers, but there is no watermark.

    Either there is no worker, or this server is no longer the primary. Only a new connection can tell.
    """


class Moved(Exception):
    """Another epoch or run began, or the log went back.

    This server may have been demoted: it then gets the changes late, through replication, while it still
    answers PINGs at once. A new connection checks its role.
    """


class SubscriberLog:
    """Logs each change between attached and detached, and each other problem once."""

    def __init__(self, connections: Connections, freshness: Freshness, *, max_silence: float) -> None:
        self._connections = connections
        self._freshness = freshness
        self._max_silence = max_silence
        self._logged: set[str] = set()
        self._was_attached = False

    def attached(self) -> None:
        """Log that the agent is attached, if it was detached before."""
        if not self._was_attached and self._freshness.trust is Trust.ATTACHED:
            self._was_attached = True
            place, staleness = self._connections.place, self._freshness.staleness
            logger.info("attached to %s: staleness %.3f s", place, staleness)

    def silent(self) -> None:
        """Log that the agent is detached, if it was attached before and watermarks stopped."""
        if self._was_attached and self._freshness.trust is not Trust.ATTACHED:
            self._was_attached = False
            logger.warning(
                "detached: no watermark for %.1f s. Is the worker running, with the same UNSTALE_NAMESPACE "
                "and the same database number (%d) in its REDIS_URL?",
                self._max_silence,
                self._connections.database,
            )

    def found_no_epoch(self) -> None:
        """Log once that no worker has led in this Redis, or that its state is gone."""
        self.once(
            "no watermark",
            f"detached: connected to {self._connections.place}, but no worker has led there. Start "
            "`unstale worker`, with the same UNSTALE_NAMESPACE and the same database number "
            f"({self._connections.database}) in its REDIS_URL",
        )

    def lost(self, error: BaseException, *, first: bool) -> None:
        """Log that ``error`` ended the connection; ``first`` is True for the first connection."""
        place = self._connections.place
        if isinstance(error, Moved):
            logger.info("another epoch at %s: reconnecting", place)
        elif isinstance(error, NoWatermark) and not self._was_attached:
            self.once(
                "no watermark",
                f"detached: connected to {place}, but no watermark came. Is the worker running, with the "
                f"same UNSTALE_NAMESPACE and the same database number ({self._connections.database}) in its "
                "REDIS_URL?",
            )
        else:
            known = isinstance(error, RedisError | Unavailable | OSError | TimeoutError | Silence)
            sentence = answered(error, place)
            if sentence is None:
                text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                if first and self._connections.tls:
                    text += "; does that port speak TLS, as rediss:// in REDIS_URL says?"
                elif first and "closed by server" in text:
                    text += "; does that port speak TLS only? Then write rediss:// in REDIS_URL"
                sentence = f"{'cannot reach' if first else 'lost'} Redis at {place} ({text})"
            if self._was_attached or first or not known:
                logger.warning("detached: %s", sentence, exc_info=None if known else error)
        self._was_attached = False

    def once(self, what: str, sentence: str) -> None:
        """Log ``sentence``, unless a sentence about ``what`` was logged before."""
        if what not in self._logged:
            self._logged.add(what)
            logger.warning(sentence)

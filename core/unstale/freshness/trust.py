"""The one owner of trust: what this agent has processed, and which tiers may answer. No I/O.

`Freshness.trusted_until` and `Freshness.staleness` are computed from the moment the last PING was sent whose
PONG came before the newest watermark. What the watermark says was true at that moment at the latest, however
long the watermark waited in a buffer.
"""

import math
from collections.abc import Callable
from enum import Enum

from unstale.near_cache.local_state import LocalState
from unstale.protocol.messages import Watermark
from unstale.protocol.names import Epoch, LogId


class Trust(Enum):
    """The tiers that may answer now."""

    ATTACHED = "attached"
    """Both tiers."""
    BRIEFLY_DETACHED = "briefly detached"
    """Redis, not the near cache. Its log was replayed since a connection was lost, and is the known one."""
    DETACHED = "detached"
    """Neither: every process loads for itself."""


class Freshness:
    """Epoch, newest log id processed, and the bound on staleness. Only its own methods change its fields.

    A process that was never attached knows no bound, so it starts as `Trust.DETACHED`.

    Attributes:
        epoch: The history that is followed; None until a live one is found.
        last: Id of the newest log entry that has been processed here.
        watermark: The newest watermark that counted; kept while detached.
        trusted_until: Moment up to which the near cache may be served. A read compares it with the clock, so
            a process that was paused does not trust itself when it wakes.
    """

    __slots__ = (
        "_clock", "_detached_ttl", "_fresh_as_of", "_local", "_max_silence", "_muted_until", "_ping_number",
        "_pings", "_ponged", "_redis_known", "epoch", "last", "trusted_until", "watermark",
    )  # fmt: skip

    def __init__(
        self, local: LocalState, *, clock: Callable[[], float], max_silence: float, detached_ttl: float
    ) -> None:
        self._local = local
        self._clock = clock
        self._max_silence = max_silence
        self._detached_ttl = detached_ttl
        self._pings: dict[int, float] = {}
        self._ping_number = 0
        self._ponged = -math.inf
        self._muted_until = -math.inf
        self._fresh_as_of = -math.inf
        self._redis_known = False
        self.trusted_until = -math.inf
        self.epoch: Epoch | None = None
        self.last = LogId(0)
        self.watermark: Watermark | None = None

    # --- questions ------------------------------------------------------------------------------

    @property
    def trust(self) -> Trust:
        """The tiers that may answer now."""
        behind = self._clock() - self.trusted_until
        if behind < 0:
            return Trust.ATTACHED
        if not self._redis_known:
            return Trust.DETACHED
        return Trust.BRIEFLY_DETACHED if behind < self._detached_ttl else Trust.DETACHED

    @property
    def attached(self) -> bool:
        """True if the near cache may answer: the log is followed and watermarks arrive."""
        return self._clock() < self.trusted_until

    @property
    def believes_redis(self) -> bool:
        """True if values in Redis may be used. Ask again when an answer of Redis arrives."""
        return self.trust is not Trust.DETACHED

    @property
    def staleness(self) -> float:
        """Upper bound in seconds on how old an answer can be; infinite while detached."""
        now = self._clock()
        return now - self._fresh_as_of if now < self.trusted_until else math.inf

    @property
    def watermark_age(self) -> float:
        """Seconds since the moment up to which everything is known to be processed; infinite if never."""
        return self._clock() - self._fresh_as_of

    # --- events: the log ------------------------------------------------------------------------

    def advanced(self, last: LogId) -> None:
        """Record that every log entry up to ``last`` of this epoch has been processed."""
        self.last = last

    def adopted(self, epoch: Epoch | None, last: LogId) -> None:
        """Drop everything remembered and continue from ``last`` of ``epoch``; None: wait for a live one.

        Earlier watermarks no longer count. Values in Redis are not trusted either: it may have gone back.
        """
        self._local.flush()
        self.epoch, self.last = epoch, last
        self.watermark = None
        self._fresh_as_of = -math.inf
        self.doubted()

    def recognized(self) -> None:
        """Record that the Redis that answers holds the followed log, no shorter than it was, in one run."""
        self._redis_known = True

    def doubted(self) -> None:
        """Trust neither tier: the Redis that answers may hold older data than was processed here."""
        self._redis_known = False
        self.detached()

    def detached(self) -> None:
        """Trust the near cache no more until the next watermark that counts."""
        self.trusted_until = min(self.trusted_until, self._clock())

    def muted(self) -> None:
        """Flush and detach for ``max_silence``: a message of an unknown version could not be read."""
        self._local.flush()
        self.detached()
        self._muted_until = self._clock() + self._max_silence

    # --- events: watermarks ---------------------------------------------------------------------

    def heard(self, watermark: Watermark) -> bool:
        """Take note of a watermark that `last` has reached; return True if it counted."""
        if self._ponged == -math.inf or self._clock() < self._muted_until:
            return False
        self._redis_known = True
        self._note(watermark, as_of=self._ponged - watermark.age_ms / 1000, heard=self._ponged)
        return True

    def caught_up(self, watermark: Watermark, *, as_of: float) -> None:
        """Take note of what this process applied itself, from a read that began at ``as_of``."""
        self._note(watermark, as_of=as_of, heard=as_of)

    def _note(self, watermark: Watermark, *, as_of: float, heard: float) -> None:
        # Never back: a watermark of a slower read may arrive after one of a faster.
        self._fresh_as_of = max(self._fresh_as_of, as_of)
        was_attached = self.attached
        self.trusted_until = heard + self._max_silence
        if not was_attached and self.attached:
            self._local.offline.clear()
        self.watermark = watermark

    # --- events: the pub/sub connection ---------------------------------------------------------

    def lost(self, *, answered: bool = False) -> None:
        """Detach: the connection is gone, or a new one begins. No PONG of the old one counts any more.

        The next server may be a Redis that went back to older data, so its values are not trusted either,
        until `recognized` or a watermark. They stay trusted if the connection ``answered`` to the end and
        was given up for want of watermarks.
        """
        if answered:
            self.detached()
        else:
            self.doubted()
        self._pings.clear()
        self._ponged = -math.inf

    def ping(self) -> int:
        """Return the number of the PING that is sent now."""
        self._ping_number += 1
        self._pings[self._ping_number] = self._clock()
        return self._ping_number

    def pong(self, number: int) -> None:
        """Record a PONG: everything published before Redis saw that PING has arrived."""
        sent = self._pings.pop(number, None)
        if sent is not None:
            self._ponged = sent
            for older in [n for n in self._pings if n < number]:
                del self._pings[older]

    @property
    def unanswered(self) -> float:
        """Seconds since the oldest PING without an answer was sent; 0 if all are answered."""
        return self._clock() - min(self._pings.values()) if self._pings else 0.0

    def __repr__(self) -> str:
        return f"<Freshness {self.trust.value}, epoch {(self.epoch or 'none')[:8]}, last {self.last}>"

"""What an agent knows of the log and of its own freshness; decides, and does no I/O.

`trusted_until` and `staleness` are computed from the moment the last PING was sent whose PONG came before the
newest watermark: what the watermark says was true at that moment at the latest, however long it lay around.
"""

import math
from collections.abc import Callable
from enum import Enum

from unstale.near_cache.local_state import NearTier
from unstale.protocol.messages import Watermark
from unstale.protocol.names import Epoch, LogId


class Trust(Enum):
    """How far what was cached can be trusted now."""

    ATTACHED = "attached"
    """Both tiers."""
    BRIEFLY_DETACHED = "briefly detached"
    """Redis, not the near cache. Its log was looked at since a connection was lost, and is the one known."""
    DETACHED = "detached"
    """Neither: every process loads for itself."""


class Follower:
    """Epoch, newest id seen, and the bound on staleness.

    A process that was never attached knows no bound at all, so it starts as `Trust.DETACHED`.
    """

    def __init__(
        self, near: NearTier, *, clock: Callable[[], float], max_silence: float, detached_ttl: float
    ) -> None:
        self._near = near
        self._clock = clock
        self._max_silence = max_silence
        self._detached_ttl = detached_ttl
        self._pings: dict[int, float] = {}
        self._ping_number = 0
        self._ponged = -math.inf
        self._muted_until = -math.inf
        self._fresh_as_of = -math.inf
        self._redis_known = False
        self.epoch: Epoch | None = None
        self.last = LogId(0)
        self.mark: Watermark | None = None
        """The newest snapshot everything below which has been processed here; kept while detached."""
        self.rules_hash = ""

    # --- freshness ------------------------------------------------------------------------------

    @property
    def trust(self) -> Trust:
        """See `Trust`."""
        behind = self._clock() - self._near.followed.trusted_until
        if behind < 0:
            return Trust.ATTACHED
        if not self._redis_known:
            return Trust.DETACHED
        return Trust.BRIEFLY_DETACHED if behind < self._detached_ttl else Trust.DETACHED

    @property
    def believes_redis(self) -> bool:
        """Whether what Redis holds may be used; asked again when an answer comes."""
        return self.trust is not Trust.DETACHED

    @property
    def staleness(self) -> float:
        """Upper bound in seconds on how old an answer can be; infinite while detached."""
        now = self._clock()
        return now - self._fresh_as_of if now < self._near.followed.trusted_until else math.inf

    @property
    def watermark_age(self) -> float:
        """Seconds since the moment up to which all is known to be processed here; infinite if never."""
        return self._clock() - self._fresh_as_of

    def detach(self) -> None:
        """Trust the near cache no more until the next watermark that counts."""
        self._near.followed.trusted_until = min(self._near.followed.trusted_until, self._clock())

    # --- the pub/sub connection -----------------------------------------------------------------

    def connection_lost(self, *, answered: bool = False) -> None:
        """The connection is gone, or a new one begins: no PONG of the old one counts any more.

        Whoever answers next may be a Redis that went back to older data, so its values are not trusted
        either, until `recognize` or a watermark; unless it ``answered`` to the end, and was only given up.
        """
        if answered:
            self.detach()
        else:
            self.doubt()
        self._pings.clear()
        self._ponged = -math.inf

    def ping(self) -> int:
        """Number of the PING that is sent now."""
        self._ping_number += 1
        self._pings[self._ping_number] = self._clock()
        return self._ping_number

    def pong(self, number: int) -> None:
        """Its answer came, and so had everything that was published before Redis saw the PING."""
        sent = self._pings.pop(number, None)
        if sent is not None:
            self._ponged = sent
            for older in [n for n in self._pings if n < number]:
                del self._pings[older]

    @property
    def unanswered(self) -> float:
        """Seconds since the oldest PING was sent that has no answer; 0 when all have."""
        return self._clock() - min(self._pings.values()) if self._pings else 0.0

    # --- the log --------------------------------------------------------------------------------

    def adopt(self, epoch: Epoch | None, last: LogId) -> None:
        """Drop everything remembered and continue from ``last`` of ``epoch``; None: wait for a live one.

        What older watermarks said does not count any more, and neither do values in Redis: it may have gone
        back.
        """
        self._near.flush()
        self.epoch, self.last = epoch, last
        self.mark = None
        self._fresh_as_of = -math.inf
        self.doubt()

    def recognize(self) -> None:
        """The Redis that answers holds the log that was followed, no shorter than it was, in the same run."""
        self._redis_known = True

    def doubt(self) -> None:
        """The Redis that answers may hold older data than what was processed here: trust nothing of it."""
        self._redis_known = False
        self.detach()

    def mute(self) -> None:
        """A message of an unknown version came: whatever it said, it was not heard."""
        self._near.flush()
        self.detach()
        self._muted_until = self._clock() + self._max_silence

    def watermark(self, mark: Watermark) -> bool:
        """Take note of a watermark that `last` has reached; whether it counted."""
        if self._ponged == -math.inf or self._clock() < self._muted_until:
            return False
        self._redis_known = True
        self._note(mark, as_of=self._ponged - mark.age_ms / 1000, heard=self._ponged)
        return True

    def caught_up(self, mark: Watermark, *, as_of: float) -> None:
        """This process itself has applied what a read that began at ``as_of`` found: ``mark`` says which."""
        self._note(mark, as_of=as_of, heard=as_of)

    def _note(self, mark: Watermark, *, as_of: float, heard: float) -> None:
        # Never back: a watermark of a slower read may arrive after one of a faster.
        self._fresh_as_of = max(self._fresh_as_of, as_of)
        attached = self._clock() < self._near.followed.trusted_until
        self._near.followed.trusted_until = heard + self._max_silence
        if not attached and self.trust is Trust.ATTACHED:
            self._near.adrift.clear()
        self.mark = mark

    def __repr__(self) -> str:
        return f"<Follower {self.trust.value}, epoch {(self.epoch or 'none')[:8]}, last {self.last}>"

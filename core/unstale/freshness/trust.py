"""The owner of trust: what this agent has processed, and which tiers may answer. Pure: no I/O.

Trust is two moments, `Freshness.trusted_until` and `Freshness.believed_until`, so that a read only compares
them with the clock. They and `Freshness.staleness` are measured from the moment at which a PING was sent: the
last one whose PONG arrived before the newest watermark. The watermark was published after that moment,
however long it waited in a buffer afterwards. A new connection begins with the watermark that its replay
finds in the state. It counts from the sending of the replay, by the clock of Redis.
"""

import math
from collections.abc import Callable
from enum import Enum

from unstale.freshness.heard import Heard
from unstale.near_cache.local_state import LocalState
from unstale.protocol.messages import Watermark
from unstale.protocol.names import Epoch, LogId


class Trust(Enum):
    """The tiers that may answer now."""

    ATTACHED = "attached"
    """Both tiers."""
    BRIEFLY_DETACHED = "briefly detached"
    """Redis, but not the near cache: since the last reconnect its log was replayed, and is the same log."""
    DETACHED = "detached"
    """Neither tier: each process calls its loaders."""


class Freshness:
    """Epoch, newest processed log id, and the bound on staleness. Only its own methods change its fields.

    A process starts as `Trust.DETACHED`, because it has no bound before it was attached.

    Attributes:
        epoch: The followed epoch; None until a live one is found.
        last: Id of the newest log entry that this process has processed.
        watermark: The newest accepted watermark; kept while detached.
        trusted_until: Moment until which the near cache may be served. Each read compares it with the clock,
            so a process that was paused does not serve old values when it resumes.
        believed_until: Moment until which values in Redis may be used; not before `trusted_until`.
        attached_since: Moment at which this process was attached last.
        marks: When which log entries were processed.
    """

    __slots__ = (
        "_clock", "_detached_ttl", "_fresh_as_of", "_local", "_max_silence", "_muted_until", "_not_before",
        "_ping_number", "_pings", "_ponged", "_proved", "_redis_known", "_shown", "attached_since",
        "believed_until", "epoch", "last", "marks", "trusted_until", "watermark",
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
        self._proved = math.inf  # without a subscriber, watermarks are this process' own
        self._muted_until = -math.inf
        self._fresh_as_of = -math.inf
        self._not_before = -math.inf
        self._redis_known = False
        self._shown = False
        self.trusted_until = self.believed_until = self.attached_since = -math.inf
        self.marks = Heard()
        self.epoch: Epoch | None = None
        self.last = LogId(0)
        self.watermark: Watermark | None = None

    # --- questions ------------------------------------------------------------------------------

    @property
    def trust(self) -> Trust:
        """The tiers that may answer now."""
        now = self._clock()
        if now < self.trusted_until:
            return Trust.ATTACHED
        return Trust.BRIEFLY_DETACHED if now < self.believed_until else Trust.DETACHED

    @property
    def attached(self) -> bool:
        """True if the near cache may answer: the log is followed and watermarks arrive."""
        return self._clock() < self.trusted_until

    @property
    def believes_redis(self) -> bool:
        """True if values in Redis may be used. Check it again when a reply of Redis arrives."""
        return self._clock() < self.believed_until

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
        if last != self.last:
            self.marks.note(last, self._clock())
        self.last = last

    def adopted(self, epoch: Epoch | None, last: LogId) -> None:
        """Drop all local values and continue from ``last`` of ``epoch``; None: wait for a live epoch.

        Earlier watermarks are discarded. Values in Redis are not trusted either: its data may have gone back.
        """
        self._local.flush()
        self.epoch, self.last = epoch, last
        self.marks.clear()
        self.marks.note(last, self._clock())
        self.watermark = None
        self._fresh_as_of = -math.inf
        self.doubted()

    def recognized(self) -> None:
        """Record that Redis holds the followed log, no shorter than before, and was not restarted.

        A watermark was published in its epoch, so what a promotion may have taken back is applied again.
        """
        self._redis_known = True
        self._trust_until(self.trusted_until)

    def doubted(self) -> None:
        """Trust neither tier: Redis may hold older data than this process has processed."""
        self._redis_known = False
        self.detached()

    def detached(self) -> None:
        """Do not trust the near cache until the next watermark, heard or shown."""
        self._trust_until(min(self.trusted_until, self._clock()))

    def muted(self) -> None:
        """Flush, and stay detached for ``max_silence``: a message has an unknown version."""
        self._local.flush()
        self.detached()
        self._muted_until = self._clock() + self._max_silence

    # --- events: watermarks ---------------------------------------------------------------------

    def heard(self, watermark: Watermark) -> bool:
        """Process a watermark that `last` has reached; return True if it was accepted."""
        heard = min(self._ponged, self._proved)
        if heard == -math.inf or self._clock() < self._muted_until or self.unproved:
            return False
        if self._ponged - watermark.age_ms / 1000 < self._not_before:
            return False
        self._redis_known = True
        if self._shown:  # by the clock of Redis, which may have been set back meanwhile
            self._shown, self._fresh_as_of = False, -math.inf
        self._note(as_of=self._ponged - watermark.age_ms / 1000, heard=heard)
        self.watermark = watermark
        return True

    def shown(self, age: float, *, sent: float, subscribed: float) -> bool:
        """Process the newest watermark as a replay has read it from the state; return True if it counts.

        The replay has read it together with the log, so all that it announced is processed. A new connection
        is attached by it at once, if the worker is proved alive. It names no transactions for ``wait_for``.

        Args:
            age: Seconds since the worker began the read that the watermark announced, by the clock of Redis.
            sent: When this process sent the replay.
            subscribed: When it sent the subscription, which was confirmed before that.
        """
        if not 0 <= age < math.inf:
            return False
        self.proved(sent - age)
        if self._clock() < self._muted_until or self.unproved:
            return False
        self._redis_known = self._shown = True
        self._note(as_of=sent - age, heard=min(subscribed, sent - age))
        return True

    def proved(self, at: float) -> None:
        """Record that the worker has published a watermark at the moment ``at`` or later.

        Redis' state says so, which takes the right to write values. A user that may only publish can repeat
        a watermark, but that keeps no agent attached to a worker that is gone. -inf: nothing is known yet;
        inf: this agent may not read it.
        """
        self._proved = at if math.isinf(at) else max(self._proved, at)

    @property
    def unproved(self) -> bool:
        """True if Redis' state does not prove that the worker published within ``max_silence``."""
        return self._clock() >= self._proved + self._max_silence

    def caught_up(self, watermark: Watermark, *, as_of: float) -> None:
        """Process the watermark of this process' own read of the outbox, which began at ``as_of``."""
        self._note(as_of=as_of, heard=as_of)
        self.watermark = watermark

    def _note(self, *, as_of: float, heard: float) -> None:
        # Never go back: the watermark of a slow read may arrive after that of a faster one.
        self._fresh_as_of = max(self._fresh_as_of, as_of)
        was_attached = self.attached
        self._trust_until(heard + self._max_silence)
        if self.attached:
            self._local.offline.clear()
            if not was_attached:
                self.attached_since = self._clock()

    def _trust_until(self, moment: float) -> None:
        """Trust the near cache until ``moment``, and Redis for `detached_ttl` longer if it is known."""
        self.trusted_until = moment
        self.believed_until = moment + self._detached_ttl if self._redis_known else moment

    # --- events: the pub/sub connection ---------------------------------------------------------

    def lost(self, *, answered: bool = False) -> None:
        """Detach: the connection is lost or replaced. PONGs of the old connection no longer count.

        The data of the next server may be older, so values in Redis are not trusted either, until
        `recognized` or a watermark. They stay trusted if the connection ``answered`` until the end and was
        closed only because watermarks were missing.
        """
        if answered:
            self.detached()
        else:
            self.doubted()
        self._pings.clear()
        self._ponged = -math.inf

    def connected(self, at: float, *, doubtful: bool) -> None:
        """Record a subscription that was sent at ``at``.

        It is ``doubtful`` if this process followed a log before, and the server does not tell its run: it may
        have gone back in the same epoch. Only a watermark whose read began after ``at`` then counts. By then
        all that this process has processed before is applied again.
        """
        self._not_before = at if doubtful else -math.inf

    def ping(self) -> int:
        """Record that a PING is sent now; return its number."""
        self._ping_number += 1
        self._pings[self._ping_number] = self._clock()
        return self._ping_number

    def pong(self, number: int) -> None:
        """Record a PONG: everything that Redis published before that PING has arrived."""
        sent = self._pings.pop(number, None)
        if sent is not None:
            self._ponged = sent
            for older in [n for n in self._pings if n < number]:
                del self._pings[older]

    @property
    def unanswered(self) -> float:
        """Seconds since the oldest unanswered PING was sent; 0 if all are answered."""
        return self._clock() - min(self._pings.values()) if self._pings else 0.0

    def __repr__(self) -> str:
        return f"<Freshness {self.trust.value}, epoch {(self.epoch or 'none')[:8]}, last {self.last}>"

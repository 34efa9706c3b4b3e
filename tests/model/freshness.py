"""The bounds in time: what `Freshness.staleness` claims, and how long a stale value is served.

Both are checked against the moments at which changes were really committed.

Time is a small whole number. The worker begins a read, applies it, and says a watermark with the time since;
agent and Redis exchange PING and PONG over the connection that carries the messages; either side may be slow
for any time. The promise: everything committed before ``now - staleness`` has been processed.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .checker import Move
from .states import state

END: Final = 2
"""The last moment."""
COMMITS: Final = 1
QUEUE: Final = 2
"""Most messages on their way to the agent."""

CAUGHT: Final = (
    "pong before watermark",
    "age from the begin of the read",
    "age when it is published",
)
"""What can be switched off."""

LIE = "staleness: something committed before now - staleness has not been processed"


@state
class Moment(NamedTuple):
    """The state: the clock, the worker and the agent."""

    now: int = 0
    commits: tuple[int, ...] = ()  # when each was committed
    reading: tuple[int, int] | None = None  # the worker's read: began, how many commits it saw
    applied: tuple[int, int] = (0, 0)  # the newest read that is applied
    saying: tuple[int, int, int] | None = None  # the worker looked at its clock: age, began, commits
    queue: tuple[tuple[str, int, int], ...] = ()  # on their way: (pong, sent, -), (watermark, age, commits)
    pinged: int | None = None  # the PING that is on its way to Redis
    ponged: int = -1  # sending time of the last PING that was answered; -1: none
    fresh_as_of: int = -1  # -1: detached
    processed: int = 0  # commits whose invalidation has been processed


class Freshness:
    """A model for `checker.explore`; ``off`` is one of `CAUGHT`."""

    def __init__(self, off: str = "") -> None:
        self._off = off

    def start(self) -> Moment:
        """Nothing is committed, the agent is not attached."""
        return Moment()

    def moves(self, at: Moment) -> Iterator[Move[Moment]]:
        """Time passes, or somebody does something in no time."""
        if at.now < END:
            yield f"it is {at.now + 1}", at._replace(now=at.now + 1), None
        if len(at.commits) < COMMITS:
            yield "a change commits", at._replace(commits=(*at.commits, at.now)), None
        if at.reading is None:
            yield "the worker begins a read", at._replace(reading=(at.now, len(at.commits))), None
        else:
            began = at.now if self._off == "age from the begin of the read" else at.reading[0]
            applied = (began, at.reading[1])
            yield "the worker has applied it", at._replace(reading=None, applied=applied), None
        if at.saying is None:
            began, commits = at.applied
            saying = (at.now - began, began, commits)
            yield f"the worker measures an age of {saying[0]}", at._replace(saying=saying), None
        if len(at.queue) < QUEUE:
            yield from self._say(at)
            if at.pinged is not None:
                answered = at._replace(queue=(*at.queue, ("pong", at.pinged, 0)), pinged=None)
                yield "Redis answers the PING", answered, None
        if at.pinged is None:
            yield "the agent sends a PING", at._replace(pinged=at.now), None
        if at.queue:
            yield from self._hear(at)
        again = at._replace(queue=(), pinged=None, ponged=-1, fresh_as_of=-1, processed=at.applied[1])
        yield "the agent reconnects and replays", again, None

    def _say(self, at: Moment) -> Iterator[Move[Moment]]:
        """The script that publishes: the worker may have been paused since it looked at its clock."""
        if at.saying is None:
            return
        age, began, commits = at.saying
        if self._off != "age when it is published":
            age = max(age, at.now - began)
        said = ("watermark", age, commits)
        yield f"a watermark of age {age}", at._replace(saying=None, queue=(*at.queue, said)), None

    def _hear(self, at: Moment) -> Iterator[Move[Moment]]:
        (kind, number, commits), rest = at.queue[0], at.queue[1:]
        if kind == "pong":
            yield f"the agent hears the PONG to {number}", at._replace(queue=rest, ponged=number), None
            return
        sent = at.now if self._off == "pong before watermark" else at.ponged
        heard = at._replace(queue=rest, processed=max(at.processed, commits))
        if sent >= 0:
            heard = heard._replace(fresh_as_of=max(at.fresh_as_of, sent - number))
        yield f"the agent hears a watermark of age {number}", heard, None

    def broken(self, at: Moment) -> str | None:
        """An attached agent has processed everything that was committed before `fresh_as_of`."""
        if at.fresh_as_of < 0:
            return None
        due = sum(committed < at.fresh_as_of for committed in at.commits)
        return LIE if at.processed < due else None

    def at_rest(self, at: Moment) -> bool:
        """The end of time."""
        return at.now == END


BOUND: Final = 2
"""How long a value may be served after the change that made it stale: `Renewal.serve_ms`."""
LAST: Final = 5

STALE_CAUGHT: Final = ("life from the read before", "the begin of that read")
"""What can be switched off."""

TOO_LATE = "serve_stale: a value is served longer after its change than its rule allows"


@state
class Kept(NamedTuple):
    """The state: the clock, one change of one key, and a worker that may pause for any time."""

    now: int = 0
    committed: int | None = None
    read_at: int | None = None  # in Redis: when the newest read that is applied as a whole began
    reading: tuple[int, bool] | None = None  # the worker's read: began, and whether it saw the change
    unsaid: int | None = None  # began of the newest batch that is applied, if no watermark said so yet
    gone: bool = False  # the change is applied: the value is gone, or set aside
    ends: int | None = None  # the stale value in Redis expires


class ServeStale:
    """A model of ``apply.lua`` and ``publish_watermark``; ``off`` is one of `STALE_CAUGHT`."""

    def __init__(self, off: str = "") -> None:
        self._off = off

    def start(self) -> Kept:
        """The value stands in Redis, and nothing was read."""
        return Kept()

    def moves(self, at: Kept) -> Iterator[Move[Kept]]:
        """Time passes, or somebody does something in no time."""
        if at.now < LAST:
            yield f"it is {at.now + 1}", at._replace(now=at.now + 1), None
        if at.committed is None:
            yield "a change commits", at._replace(committed=at.now), None
        if at.reading is None:
            reading = (at.now, at.committed is not None)
            yield "the worker begins a read", at._replace(reading=reading), None
        else:
            yield "the worker has applied it", self._applied(at), None
            yield "the worker dies", at._replace(reading=None), None
        if at.unsaid is not None:
            yield "a watermark", at._replace(read_at=at.unsaid, unsaid=None), None

    def _applied(self, at: Kept) -> Kept:
        assert at.reading is not None
        began, saw = at.reading
        if self._off == "the begin of that read":
            began = at.now
        if saw and not at.gone:
            at = at._replace(gone=True)
            since = at.now if self._off == "life from the read before" else at.read_at
            if since is not None and since + BOUND > at.now:
                at = at._replace(ends=since + BOUND)
        return at._replace(reading=None, unsaid=began)

    def broken(self, at: Kept) -> str | None:
        """While the stale value stands, its change is at most `BOUND` old."""
        if at.ends is None or at.committed is None:
            return None
        return TOO_LATE if at.now < at.ends and at.now > at.committed + BOUND else None

    def at_rest(self, at: Kept) -> bool:
        """The end of time."""
        return at.now == LAST

"""A new connection that attaches by the state: how old its answers are, and for how long it is attached.

The agent does not wait for a watermark. Its replay also reads when the read began that the newest watermark
announced (``read_at``). Two promises: everything committed before ``now - staleness`` has been processed, and
an agent is attached for at most ``SILENCE`` after the worker's last watermark. Time is a small whole number;
worker, agent and Redis may be slow for any time, and a worker that is dead does nothing for ever.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .checker import Move
from .states import state

END: Final = 3
"""The last moment."""
SILENCE: Final = 2
"""``max_silence``."""
COMMITS: Final = 1

OPENING_CAUGHT: Final = (
    "the begin of the read, not the watermark",
    "age from the sending of the replay",
    "a read within max_silence",
)
"""What can be switched off."""

LIE = "staleness: something committed before now - staleness has not been processed"
DEAD = "liveness: an agent is attached, and the worker has been silent for max_silence"


@state
class Door(NamedTuple):
    """The state: the clock, the worker, Redis, and the agent that opens."""

    now: int = 0
    commits: tuple[int, ...] = ()  # when each was committed
    reading: tuple[int, int] | None = None  # the worker's read: began, how many commits it saw
    applied: tuple[int, int] | None = None  # the newest read that is applied; its commits are in the log
    read_at: int | None = None  # in Redis: when the read began that the newest watermark announced
    said_at: int | None = None  # ghost: when that was published
    replay: int | None = None  # the agent's: when it was sent
    answer: tuple[int, int] | None = None  # on its way: age of the read, how many commits the log holds
    fresh_as_of: int = -1
    trusted_until: int = -1
    processed: int = 0  # commits whose invalidation has been processed


class Opening:
    """A model of ``replay.lua`` and `Freshness.shown`; ``off`` is one of `OPENING_CAUGHT`."""

    def __init__(self, off: str = "") -> None:
        self._off = off

    def start(self) -> Door:
        """No worker has ever led."""
        return Door()

    def moves(self, at: Door) -> Iterator[Move[Door]]:
        """Time passes, or somebody does something in no time."""
        if at.now < END:
            yield f"it is {at.now + 1}", at._replace(now=at.now + 1), None
        if len(at.commits) < COMMITS:
            yield "a change commits", at._replace(commits=(*at.commits, at.now)), None
        if at.reading is None:
            yield "the worker begins a read", at._replace(reading=(at.now, len(at.commits))), None
        else:
            yield "the worker has applied it", at._replace(reading=None, applied=at.reading), None
        if at.applied is not None:
            began = at.now if self._off == "the begin of the read, not the watermark" else at.applied[0]
            yield "a watermark", at._replace(read_at=began, said_at=at.now), None
        if at.replay is None:
            yield "the agent sends its replay", at._replace(replay=at.now), None
        elif at.answer is not None:
            yield "the agent hears the answer", self._shown(at, at.replay, *at.answer), None
        elif at.read_at is not None and at.applied is not None:
            answer = (at.now - at.read_at, at.applied[1])
            yield f"Redis answers: read {answer[0]} ago", at._replace(answer=answer), None

    def _shown(self, at: Door, sent: int, age: int, commits: int) -> Door:
        if self._off == "age from the sending of the replay":
            sent = at.now
        as_of = sent - age
        until = sent if self._off == "a read within max_silence" else as_of
        return at._replace(
            replay=None, answer=None, processed=commits, fresh_as_of=as_of, trusted_until=until + SILENCE
        )

    def broken(self, at: Door) -> str | None:
        """While attached: everything before `fresh_as_of` is processed, and the worker spoke lately."""
        if at.now >= at.trusted_until:
            return None
        if at.processed < sum(committed < at.fresh_as_of for committed in at.commits):
            return LIE
        return DEAD if at.said_at is None or at.now >= at.said_at + SILENCE else None

    def at_rest(self, at: Door) -> bool:
        """The end of time."""
        return at.now == END

"""Watermarks that the worker did not publish: how long they can keep an agent attached.

A client that may publish may repeat or make up any watermark at any moment. So a watermark alone proves
nothing: the agent also reads from the state when the worker's script last published one (``applied_at``),
which only a writer of the state can change. The promise: an agent is attached for at most ``SILENCE`` after
the worker's last watermark, whatever is published.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .checker import Move
from .states import state

END: Final = 5
"""The last moment."""
SILENCE: Final = 2
"""``max_silence``."""

LIVENESS_CAUGHT: Final = ("proof in the state", "age from the sending of the reading")
"""What can be switched off."""

DEAD = "liveness: an agent is attached, and the worker has been silent for max_silence"


@state
class Proof(NamedTuple):
    """The state: the clock, the newest watermark of the worker, and the agent."""

    now: int = 0
    applied_at: int | None = None  # in Redis: when the worker's script last published a watermark
    reading: tuple[int, int | None] | None = None  # the agent's: sent, and the age in Redis' answer
    proved: int = -1  # the worker published at this moment or later; -1: never heard of
    trusted_until: int = -1


class Liveness:
    """A model of ``Freshness.proved`` and ``Freshness.heard``; ``off`` is one of `LIVENESS_CAUGHT`."""

    def __init__(self, off: str = "") -> None:
        self._off = off

    def start(self) -> Proof:
        """No worker has ever led."""
        return Proof()

    def moves(self, at: Proof) -> Iterator[Move[Proof]]:
        """Time passes, or somebody does something in no time."""
        if at.now < END:
            yield f"it is {at.now + 1}", at._replace(now=at.now + 1), None
        yield "the worker publishes a watermark", at._replace(applied_at=at.now), None
        if at.reading is None:
            yield "the agent sends a reading", at._replace(reading=(at.now, None)), None
        elif at.reading[1] is None:
            if at.applied_at is not None:
                answered = (at.reading[0], at.now - at.applied_at)
                yield "Redis answers the reading", at._replace(reading=answered), None
        else:
            sent, age = at.reading[0], at.reading[1]
            since = at.now if self._off == "age from the sending of the reading" else sent
            proved = max(at.proved, since - age)
            yield "the agent hears the answer", at._replace(reading=None, proved=proved), None
        proved = at.now if self._off == "proof in the state" else min(at.now, at.proved)
        if proved >= 0:
            heard = at._replace(trusted_until=max(at.trusted_until, proved + SILENCE))
            yield "the agent hears a watermark, of the worker or not", heard, None

    def broken(self, at: Proof) -> str | None:
        """An attached agent's worker published within `SILENCE`."""
        if at.now >= at.trusted_until:
            return None
        return DEAD if at.applied_at is None or at.now >= at.applied_at + SILENCE else None

    def at_rest(self, at: Proof) -> bool:
        """The end of time."""
        return at.now == END

"""Stamps: what a worker's scripts leave in the state of a server that does not tell its run.

Elsewhere every script requires the run of the live server, so no script runs on a server that was promoted
unnoticed. Without a run, each script requires the stamp of the worker's own script before it, and leaves a
new one. All that a worker knows of Redis comes from replies of its scripts. A failover that takes back
anything the worker knows of therefore takes back the newest stamp as well, and the next script is refused.
"""

import secrets

from unstale.errors import PositionMoved
from unstale.redis_tier.multiplexer import Multiplexer
from unstale_worker.redis.state import StoredState


class Stamps:
    """The stamp that one worker's next script requires, and the one that it leaves.

    Example:
        >>> stamps = Stamps(multiplexer)
        >>> stamps.proved(state)
        >>> header = script_header(fence="7", **stamps.next())
    """

    __slots__ = ("_breaks", "_count", "_multiplexer", "_newest", "_prefix", "needed")

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer
        self._breaks = multiplexer.breaks
        self._prefix, self._count = secrets.token_hex(8), 0
        self._newest: str | None = None  # None: the next state may be of another history
        self.needed = False
        """True if the server does not tell its run."""

    def __repr__(self) -> str:
        return f"<Stamps {f'newest {self._newest}' if self.needed else 'not needed'}>"

    def check_connection(self) -> None:
        """Note a connection that broke since the last look: the next state proves nothing."""
        if self._multiplexer.breaks != self._breaks:
            self._breaks, self._newest = self._multiplexer.breaks, None

    def proved(self, state: StoredState) -> bool:
        """Return True if ``state`` is of the history that this worker knows; scripts require its stamp."""
        self.needed = not state.live_run
        known = not self.needed or (self._newest is not None and state.stamp == self._newest)
        self._newest = state.stamp
        return known

    def next(self) -> dict[str, str]:
        """Return the header fields of the script that is sent next; none if the server tells its run.

        Raises `PositionMoved` if the connection broke meanwhile.
        """
        if not self.needed:
            return {}
        self.check_connection()
        if self._newest is None:
            raise PositionMoved("the connection to Redis broke, and Redis does not tell its run")
        self._count += 1
        before, self._newest = self._newest, f"{self._prefix}:{self._count}"
        return {"stamp": before, "new_stamp": self._newest}

    def lost(self) -> None:
        """Note that a script's reply is lost: the next state proves nothing."""
        self._newest = None

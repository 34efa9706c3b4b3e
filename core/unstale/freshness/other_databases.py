"""Remembers the epochs heard on the channel that are not that of the state in this Redis database.

Pub/sub knows no database numbers: whoever listens hears the workers of all databases of one server.
"""

import math
from collections.abc import Callable
from typing import Final

from unstale.protocol.names import Epoch

LOOK_AGAIN: Final = 2.0
"""Seconds until the state is asked again whether messages of an epoch that was not its own are by now."""
MOST: Final = 1024
"""Epochs remembered: more than a server has databases. One that was forgotten costs a new connection."""


class Foreign:
    """Foreign epochs, and when the state was last asked: one answer is an answer about all of them."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked = -math.inf
        self._epochs: dict[Epoch, None] = {}  # the one that was asked about longest ago comes first

    def known(self, epoch: Epoch) -> bool:
        """Whether ``epoch`` is foreign, and the state was asked so lately that it need not be asked again."""
        return epoch in self and self._clock() - self._asked < LOOK_AGAIN

    def __contains__(self, epoch: Epoch) -> bool:
        """Whether ``epoch`` was foreign when the state was asked about it."""
        return epoch in self._epochs

    def add(self, epoch: Epoch) -> bool:
        """The state was asked just now, and is of another epoch; whether that is news."""
        self._asked = self._clock()
        news = epoch not in self
        self._epochs.pop(epoch, None)
        self._epochs[epoch] = None
        if len(self._epochs) > MOST:
            del self._epochs[next(iter(self._epochs))]
        return news

    def discard(self, epoch: Epoch) -> None:
        """It is the state's."""
        self._epochs.pop(epoch, None)

    def __repr__(self) -> str:
        return f"<Foreign {[epoch[:8] for epoch in self._epochs]}>"

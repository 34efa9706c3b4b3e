"""Remembers the epochs heard on the channel that are not that of the state in this Redis database.

Pub/sub knows no database numbers: whoever listens hears the workers of all databases of one server.
"""

from collections.abc import Callable
from typing import Final

from unstale.names import Epoch

LOOK_AGAIN: Final = 2.0
"""Seconds until the state is asked again whether messages of an epoch that was not its own are by now."""
MOST: Final = 16
"""Epochs remembered; one that was forgotten costs a look."""


class Foreign:
    """Foreign epochs, and when the state was last asked about each."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: dict[Epoch, float] = {}  # the one that was asked about longest ago comes first

    def known(self, epoch: Epoch) -> bool:
        """Whether ``epoch`` was found foreign so lately that the state need not be asked again."""
        asked = self._asked.get(epoch)
        return asked is not None and self._clock() - asked < LOOK_AGAIN

    def add(self, epoch: Epoch) -> bool:
        """The state was asked just now, and is of another epoch; whether that is news."""
        news = self._asked.pop(epoch, None) is None
        self._asked[epoch] = self._clock()
        if len(self._asked) > MOST:
            del self._asked[next(iter(self._asked))]
        return news

    def discard(self, epoch: Epoch) -> None:
        """It is the state's."""
        self._asked.pop(epoch, None)

    def __repr__(self) -> str:
        return f"<Foreign {[epoch[:8] for epoch in self._asked]}>"

"""Clocks that jump: what a process of the chaos run sees as the time is moved by signals.

An agent's clock jumps forward, as when its machine was suspended and its processes were not told; the time
of day jumps anywhere. A worker's monotonic clock stands still while the worker is stopped, as it does on a
machine that sleeps: only the server's clock can tell then how old a read is.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from unstale.runtime import clock

FARTHEST: Final = 8.0
"""Seconds an agent's clock jumps at most: enough for every mode of it."""
DAY: Final = 86_400.0


class Moved:
    """A clock beside the real one."""

    def __init__(self, real: Callable[[], float]) -> None:
        self._real = real
        self.offset = 0.0

    def __call__(self) -> float:
        return self._real() + self.offset


def _time_of_day(chance: random.Random) -> Moved:
    moved = Moved(time.time)
    moved.offset = chance.uniform(-DAY, DAY)
    time.time = moved
    return moved


def move_on_signal(seed: str) -> None:
    """For an agent, before its cache is made: SIGUSR2 lets its clocks jump; the time of day is wrong."""
    chance = random.Random(f"{seed} clocks")
    day, now = _time_of_day(chance), Moved(clock.now)
    clock.now = now  # type: ignore[misc]  # a constant for everybody else

    def jump(*_: object) -> None:
        now.offset += chance.uniform(0.2, FARTHEST)
        day.offset = chance.uniform(-DAY, DAY)

    signal.signal(signal.SIGUSR2, jump)


def stand_still_on_signal(seed: str) -> None:
    """For a worker, before it starts: SIGUSR2 takes the seconds it has slept in all from its clock."""
    _time_of_day(random.Random(f"{seed} clocks"))
    monotonic = Moved(time.monotonic)
    time.monotonic = monotonic
    slept = Path(os.environ["CHAOS_SLEPT"])

    def wake(*_: object) -> None:
        monotonic.offset = -float(slept.read_text())

    signal.signal(signal.SIGUSR2, wake)

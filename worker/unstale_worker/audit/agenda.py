"""The agenda: keys to compare some time after each change, and at random. Pure; bounded in memory."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from unstale.protocol.globs import matches

AT_RANDOM: Final = "at random"
"""Name of the delay of keys that are chosen at random."""


@dataclass(frozen=True, slots=True)
class Due:
    """One comparison that is due.

    Attributes:
        key: The key.
        table: The table whose change, or row, the key comes from.
        delay: When after the change, in words: ``10 s``; or `AT_RANDOM`.
    """

    key: str
    table: str
    delay: str


class Agenda:
    """Keys that changed, and when to look at them.

    A key that changes again before its comparison is due keeps its time, so that a key that always changes is
    compared all the same.

    Args:
        delays: Seconds after a change.
        most: Keys that may wait for one delay, and keys to choose from at random.

    Attributes:
        left_out: Comparisons that were left out because too many waited.
    """

    def __init__(self, delays: Iterable[float], *, most: int = 100_000, seed: int | None = None) -> None:
        self._waiting: dict[float, dict[str, tuple[float, str]]] = {
            delay: {} for delay in sorted(set(delays))
        }
        self._most = most
        self._known: list[tuple[str, str]] = []
        self._places: dict[str, int] = {}
        self._draw = random.Random(seed)
        self.left_out = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def known(self) -> int:
        """Number of keys to choose from at random."""
        return len(self._known)

    def changed(self, key: str, table: str, now: float) -> None:
        """Note a change that was seen at ``now``."""
        for delay, waiting in self._waiting.items():
            if key in waiting:
                continue
            if len(waiting) >= self._most:
                self.left_out += 1
            else:
                waiting[key] = (now + delay, table)
        self.met(key, table)

    def met(self, key: str, table: str) -> None:
        """Add a key to those that are chosen from at random; a full set forgets one at random."""
        if key in self._places:
            return
        if len(self._known) < self._most:
            self._places[key] = len(self._known)
            self._known.append((key, table))
            return
        place = self._draw.randrange(self._most)
        del self._places[self._known[place][0]]
        self._known[place], self._places[key] = (key, table), place

    def matching(self, patterns: Iterable[str]) -> list[tuple[str, str]]:
        """Return the known keys, with their tables, that match one of the patterns."""
        wanted = list(patterns)
        return [
            (key, table) for key, table in self._known if any(matches(pattern, key) for pattern in wanted)
        ]

    def due(self, now: float, most: int) -> list[Due]:
        """Remove and return what is due, at most ``most`` of each delay, the oldest first."""
        found: list[Due] = []
        for delay, waiting in self._waiting.items():
            taken: list[str] = []
            for key, (at, table) in waiting.items():  # in the order of their times
                if at > now or len(taken) >= most:
                    break
                taken.append(key)
                found.append(Due(key, table, in_words(delay)))
            for key in taken:
                del waiting[key]
        return found

    def at_random(self, count: int) -> list[Due]:
        """Choose known keys, each at most once."""
        chosen = self._draw.sample(self._known, min(count, len(self._known)))
        return [Due(key, table, AT_RANDOM) for key, table in chosen]


def in_words(seconds: float) -> str:
    """Return a time as people write it: ``10 s``, ``1 min``."""
    return f"{seconds / 60:g} min" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:g} s"

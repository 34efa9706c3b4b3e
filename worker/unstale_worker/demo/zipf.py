"""Draws items as users do: a few often, most of them rarely."""

import random
from collections.abc import Sequence
from itertools import accumulate


class Zipf:
    """Draws from ``items`` with falling probability: the n-th as often as 1 / n ** exponent."""

    def __init__(self, items: Sequence[int], chance: random.Random, *, exponent: float = 0.9) -> None:
        self._items = items
        self._chance = chance
        self._weights = list(accumulate(1 / n**exponent for n in range(1, len(items) + 1)))

    def draw(self) -> int:
        """One item."""
        return self._chance.choices(self._items, cum_weights=self._weights)[0]

"""Random choice with a Zipf distribution: a few items often, most items rarely."""

import random
from collections.abc import Sequence
from itertools import accumulate


class Zipf:
    """Random choice from ``items``; the n-th item has the weight 1 / n ** exponent."""

    def __init__(self, items: Sequence[int], chance: random.Random, *, exponent: float = 0.9) -> None:
        self._items = items
        self._chance = chance
        self._weights = list(accumulate(1 / n**exponent for n in range(1, len(items) + 1)))

    def draw(self) -> int:
        """Choose one item."""
        return self._chance.choices(self._items, cum_weights=self._weights)[0]

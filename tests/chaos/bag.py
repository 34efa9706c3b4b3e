"""The seeded order in which faults come."""

import asyncio
import random
from collections.abc import Collection, Sequence

from chaos.faults import FAULTS, Fault
from chaos.stage import Stage


class Bag:
    """Hands out faults at random, each kind once before any comes again."""

    def __init__(
        self, chance: random.Random, *, only: Collection[str] = (), faults: Sequence[Fault] = FAULTS
    ) -> None:
        self._chance = chance
        self._faults = [fault for fault in faults if not only or fault.kind in only]
        self._left: list[Fault] = []

    def draw(self) -> list[Fault]:
        """One fault, or two at different places that happen at once."""
        first = self._one(frozenset())
        if self._chance.random() < 0.5 and any(not fault.places & first.places for fault in self._faults):
            return [first, self._one(first.places)]
        return [first]

    def _one(self, taken: frozenset[str]) -> Fault:
        if not any(not fault.places & taken for fault in self._left):
            more = list(self._faults)
            self._chance.shuffle(more)
            self._left += more
        fault = next(fault for fault in self._left if not fault.places & taken)
        self._left.remove(fault)
        return fault


async def happen(faults: list[Fault], stage: Stage, chance: random.Random) -> None:
    """Let them happen at once; everything is healed afterwards."""
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            group.create_task(fault.act(stage, random.Random(chance.random())))

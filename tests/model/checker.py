"""Explores every state that a model can reach, and finds a shortest way to a broken one."""

import gc
import time
from array import array
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

S = TypeVar("S", bound=Hashable)

Move: TypeAlias = tuple[str, S, str | None]
"""What happened, the state after it, and the promise that this very step broke (or None)."""


class Model(Protocol[S]):
    """A transition system; states are hashable and equal when nothing can tell them apart."""

    def start(self) -> S:
        """The state in which everything begins."""
        ...

    def moves(self, state: S) -> Iterable[Move[S]]:
        """Every step that is possible in ``state``."""
        ...

    def broken(self, state: S) -> str | None:
        """The promise that does not hold in ``state``, or None."""
        ...

    def at_rest(self, state: S) -> bool:
        """Whether nothing has to happen any more: here every cached value must equal the database."""
        ...


class TooLarge(Exception):
    """The model has more states than were allowed: choose smaller bounds, no verdict was reached."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[S]):
    """What exploring a model found.

    Attributes:
        broken: The promise that was broken, or None: all hold in every state.
        trace: The steps that lead there, fewest first found; empty when nothing is broken.
        last: The state after the trace.
        states: States seen.
        at_rest: How many of them are at rest.
        seconds: Time it took.
    """

    broken: str | None
    trace: tuple[str, ...]
    last: S | None
    states: int
    at_rest: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether no promise was broken."""
        return self.broken is None

    def __str__(self) -> str:
        if self.broken is None:
            return "holds"
        return f"breaks {self.broken.partition(':')[0]!r} in {len(self.trace)} steps"


def explore(model: Model[S], *, limit: int = 3_000_000) -> Outcome[S]:
    """Breadth first through all states, then check that rest stays reachable from each.

    Raises `TooLarge` beyond ``limit`` states: a search that was cut short is no verdict.
    """
    began = time.perf_counter()
    gc.disable()  # states hold no cycles; walking through millions of them takes a sixth of the time
    try:
        return _explore(model, limit, began)
    finally:
        gc.enable()


def _explore(model: Model[S], limit: int, began: float) -> Outcome[S]:
    first = model.start()
    numbers: dict[S, int] = {first: 0}
    found: list[S] = [first]
    came_from, came_by = array("i", [-1]), [""]
    sources, targets = array("I"), array("I")
    resting = bytearray()

    def outcome(broken: str | None, number: int = 0, extra: str = "", last: S | None = None) -> Outcome[S]:
        steps = [extra] if extra else []
        while broken and came_from[number] >= 0:
            steps.append(came_by[number])
            number = came_from[number]
        return Outcome(
            broken, tuple(reversed(steps)), last, len(found), sum(resting), time.perf_counter() - began
        )

    if (promise := model.broken(first)) is not None:
        return outcome(promise, last=first)
    number = 0
    while number < len(found):
        state = found[number]
        resting.append(model.at_rest(state))
        for label, after, promise in model.moves(state):
            if promise is not None:
                return outcome(promise, number, label, after)
            known = numbers.get(after)
            if known is None:
                known = numbers[after] = len(found)
                found.append(after)
                came_from.append(number)
                came_by.append(label)
                if (promise := model.broken(after)) is not None:
                    return outcome(promise, known, last=after)
            sources.append(number)
            targets.append(known)
        if len(found) > limit:
            raise TooLarge(f"more than {limit} states")
        number += 1
    stuck = _cannot_rest(len(found), sources, targets, resting)
    return outcome(None) if stuck is None else outcome("rest", stuck, last=found[stuck])


def _cannot_rest(count: int, sources: "array[int]", targets: "array[int]", resting: bytearray) -> int | None:
    """The first state from which no state at rest can be reached: walk all steps backwards from rest."""
    begin = array("I", bytes(4 * (count + 1)))
    for target in targets:
        begin[target + 1] += 1
    for number in range(count):
        begin[number + 1] += begin[number]
    free = array("I", begin)
    before = array("I", bytes(4 * len(targets)))
    for source, target in zip(sources, targets, strict=True):
        before[free[target]] = source
        free[target] += 1
    can_rest = bytearray(resting)
    todo = [number for number in range(count) if can_rest[number]]
    while todo:
        number = todo.pop()
        for source in before[begin[number] : begin[number + 1]]:
            if not can_rest[source]:
                can_rest[source] = 1
                todo.append(source)
    stuck = can_rest.find(0)
    return None if stuck < 0 else stuck

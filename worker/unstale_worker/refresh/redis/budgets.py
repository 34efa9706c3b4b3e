"""Budgets of Python loaders, counted in Redis over all processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.errors import UnstaleError
from unstale.protocol.names import Names
from unstale.redis_tier.scripts import Argument, Script
from unstale_worker.redis.applier import unavailable
from unstale_worker.refresh.redis.calls import RedisCalls
from unstale_worker.rules import Rules
from unstale_worker.rules.budget import Budget
from unstale_worker.rules.refresh import RefreshSpec

SPEND: Final = Script("unstale_worker.refresh.redis", "refresh_spend")
UNSPEND: Final = Script("unstale_worker.refresh.redis", "refresh_unspend")

KEPT_MS: Final = 2 * 86_400_000
"""Milliseconds for which counts are kept: longer than values live, so ``volatile-ttl`` evicts them last."""

TOTAL: Final = "="
"""Field of a count; behind it stands the placeholder's value, if the budget is for each of them."""


class OverBudgetError(Exception):
    """A budget of a loader is used up, so it must not be called.

    Attributes:
        budget: The budget.
        seconds: Seconds until its next window.
    """

    def __init__(self, budget: Budget, seconds: float) -> None:
        self.budget, self.seconds = budget, seconds
        super().__init__(f"the budget {budget} is used up")


@dataclass(frozen=True, slots=True)
class Spent:
    """One counted call.

    Attributes:
        names: Names of the counts in Redis.
        fields: The field of each.
        windows: When the window of each began, as Redis wrote it.
    """

    names: tuple[str, ...]
    fields: tuple[str, ...]
    windows: tuple[bytes, ...]


class Budgets(RedisCalls):
    """The budgets of one namespace.

    Example:
        >>> spent = await budgets.spend(spec, "user:42:greeting")
        >>> await budgets.give_back(spent)
    """

    async def spend(self, spec: RefreshSpec, key: str) -> Spent:
        """Count one call of the loader of ``key``, before it is made.

        Raises `OverBudgetError` if a budget is used up. After `RedisUnavailable` the call may have been
        counted, and must not be made.
        """
        names, fields = _places(self._names, spec, key)
        arguments: list[Argument] = [KEPT_MS]
        for budget, field in zip(spec.budgets, fields, strict=True):
            arguments += (budget.most, budget.seconds * 1000, field)
        over, wait, *windows = await self._run(SPEND, names, arguments)
        if over:
            raise OverBudgetError(spec.budgets[over - 1], wait / 1000)
        return Spent(names, fields, tuple(windows))

    async def give_back(self, spent: Spent) -> None:
        """Take a counted call back that was not made; call it once, also after `RedisUnavailable`."""
        arguments: list[Argument] = []
        for field, window in zip(spent.fields, spent.windows, strict=True):
            arguments += (field, window)
        await self._run(UNSPEND, spent.names, arguments)


class Used(NamedTuple):
    """How much of a budget is used in the current window.

    Attributes:
        pattern: The refresh.
        budget: The budget.
        calls: Calls; None: the budget is for each value of a placeholder.
        values: Values that have made calls; None: the budget is for all keys together.
    """

    pattern: str
    budget: Budget
    calls: int | None
    values: int | None

    @property
    def used_up(self) -> bool:
        """True if no call is left for any key."""
        return self.calls is not None and self.calls >= self.budget.most

    def __str__(self) -> str:
        if self.calls is not None:
            return f"{self.calls:,} of {self.budget} used"
        return f"{self.budget}, used by {self.values:,}"

    def as_dict(self) -> dict[str, object]:
        """Return JSON-ready values."""
        return {
            "refresh": self.pattern,
            "budget": str(self.budget),
            "most": self.budget.most,
            "seconds": self.budget.seconds,
            "field": self.budget.field or None,
            "calls": self.calls,
            "values": self.values,
        }


async def read_used(redis: Redis, names: Names, specs: Sequence[RefreshSpec]) -> list[Used]:
    """Return how much of each budget is used now; raises `RedisUnavailable`."""
    wanted = [(spec, budget) for spec in specs for budget in spec.budgets]
    if not wanted:
        return []
    try:
        async with redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for spec, budget in wanted:
                place = names.refresh_budget(spec.template.text, budget.unit, budget.field)
                pipe.hmget(place, ["window", TOTAL])
                pipe.hlen(place)
            (now, _), *found = await pipe.execute()
    except RedisError as error:
        raise unavailable(error) from error
    used: list[Used] = []
    for (spec, budget), (window, calls), fields in zip(wanted, found[::2], found[1::2], strict=True):
        current = _current(window, budget, now)
        total = None if budget.field else int(calls or 0) * current
        values = max(0, fields - 1) * current if budget.field else None
        used.append(Used(spec.template.text, budget, total, values))
    return used


def lines(used: Sequence[Used]) -> list[tuple[str, str]]:
    """Return names and values for people."""
    return [(f"budget {each.pattern}", str(each)) for each in used]


def specs_of(config: Path | None) -> tuple[RefreshSpec, ...]:
    """Return the refreshes of the rules here; none if there are no rules that can be read."""
    try:
        return Rules.load(config).refreshes
    except UnstaleError:
        return ()


async def read_used_of(redis: Redis, names: Names, spec: RefreshSpec, key: str) -> list[tuple[Budget, int]]:
    """Return the calls in the current window that count for ``key``; raises `RedisUnavailable`."""
    places, fields = _places(names, spec, key)
    if not places:
        return []
    try:
        async with redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for place, field in zip(places, fields, strict=True):
                pipe.hmget(place, ["window", field])
            (now, _), *found = await pipe.execute()
    except RedisError as error:
        raise unavailable(error) from error
    return [
        (budget, int(calls or 0) * _current(window, budget, now))
        for budget, (window, calls) in zip(spec.budgets, found, strict=True)
    ]


def _current(window: bytes | None, budget: Budget, now: int) -> bool:
    return int(window or 0) / 1000 > now - budget.seconds


def _places(names: Names, spec: RefreshSpec, key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the name in Redis and the field of each count of ``key``."""
    values, pattern = spec.fields(key), spec.template.text
    return (
        tuple(names.refresh_budget(pattern, budget.unit, budget.field) for budget in spec.budgets),
        tuple(TOTAL + (values[budget.field] if budget.field else "") for budget in spec.budgets),
    )

"""Totals of each refresh over all processes: calls and tokens, spent and saved."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.protocol.names import Names
from unstale_worker.redis.applier import unavailable


@dataclass(slots=True)
class RefreshTotals:
    """Totals of one refresh, since Redis has them.

    Attributes:
        pattern: The refresh, as the rules name it.
        calls: Calls of its Python loader.
        tokens_in: Tokens of prompts.
        tokens_out: Tokens of answers.
        unchanged: Calls saved by unchanged inputs.
        saved_tokens_in: Tokens of prompts that the values stored again had cost.
        saved_tokens_out: Tokens of their answers.
        over_budget: Refreshes without a call, as a budget was used up.
    """

    pattern: str
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    unchanged: int = 0
    saved_tokens_in: int = 0
    saved_tokens_out: int = 0
    over_budget: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        spent = _tokens(self.tokens_in + self.tokens_out)
        saved = _tokens(self.saved_tokens_in + self.saved_tokens_out)
        over = f"; {self.over_budget:,} without a call, over budget" if self.over_budget else ""
        return f"{self.calls:,} calls{spent}; {self.unchanged:,} saved{saved}{over}"


NAMES: Final = frozenset(each.name for each in fields(RefreshTotals)) - {"pattern"}


async def read_totals(redis: Redis, names: Names) -> list[RefreshTotals]:
    """Return the totals of each refresh that was called or saved; raises `RedisUnavailable`."""
    try:
        found: Any = await redis.hgetall(names.refresh_counts)
    except RedisError as error:
        raise unavailable(error) from error
    return totals_of(found)


def totals_of(found: Mapping[bytes, bytes]) -> list[RefreshTotals]:
    """Read them from the hash in Redis."""
    totals: dict[str, RefreshTotals] = {}
    for raw, number in found.items():
        name, colon, pattern = raw.decode("utf-8", "replace").partition(":")
        if colon and name in NAMES:
            setattr(totals.setdefault(pattern, RefreshTotals(pattern)), name, int(number))
    return sorted(totals.values(), key=lambda each: each.pattern)


def lines(totals: Iterable[RefreshTotals]) -> list[tuple[str, str]]:
    """Return names and values for people."""
    return [(f"refresh {each.pattern}", str(each)) for each in totals]


def _tokens(number: int) -> str:
    return f" ({number:,} tokens)" if number else ""

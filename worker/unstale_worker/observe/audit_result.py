"""The result of an audit in Redis, where the page, the worker's JSON and its metrics find it.

It is for people only: nothing decides by it, and a reader trusts nothing in it.
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.protocol.names import Names
from unstale_worker.redis.applier import unavailable

KEPT: Final = 600.0
"""Seconds for which the last result stays."""
MOST_LINES: Final = 200
MOST_VIOLATIONS: Final = 10
MOST_TEXT: Final = 512

Text = Annotated[str, Field(max_length=MOST_TEXT)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class PublishedLine(_Part):
    """Comparisons of one table and delay; nines are None if they cannot be told."""

    table: Text
    delay: Text
    compared: Count
    outcomes: dict[Text, Count]
    nines: float | None


class PublishedViolation(_Part):
    """A violation; see `unstale_worker.audit.violations.Violation`."""

    key: Text
    table: Text
    delay: Text
    fields: tuple[Text, ...]
    found_ms: float
    lasted_s: float
    ended: Text | None


class Published(_Part):
    """The result of an audit, so far or at its end.

    Attributes:
        by: Host and process of the auditor.
        ended: True if the audit is over.
        seconds: Time that was observed.
        bound_s: Staleness that time is measured against, in seconds.
        lines: By table and delay.
        compared: Comparisons in all.
        equal: Of these, values that were equal to the database.
        wrong: Of these, values that were found wrong.
        nines: Of all comparisons; None if they cannot be told.
        promised_within: Share of the time in which the staleness that was promised was within the bound.
        seen_within: Share of the time in which the staleness that was seen was within it.
        worst_promised_s: Largest staleness that was promised, in seconds.
        worst_seen_s: Largest staleness that was seen, in seconds.
        broken_promises: Looks at which the watermark claimed too much.
        outages: Rounds in which a server did not answer.
        violation_count: Violations found.
        violations_lasting: Of these, those that were still there at the last look.
        violations: The newest of them, newest first.
    """

    by: Text
    ended: bool
    seconds: float
    bound_s: float
    lines: Annotated[tuple[PublishedLine, ...], Field(max_length=MOST_LINES)]
    compared: Count
    equal: Count
    wrong: Count
    nines: float | None
    promised_within: Share | None
    seen_within: Share | None
    worst_promised_s: float
    worst_seen_s: float
    broken_promises: Count
    outages: Count
    violation_count: Count
    violations_lasting: Count
    violations: Annotated[tuple[PublishedViolation, ...], Field(max_length=MOST_VIOLATIONS)]


async def read_published(redis: Redis, names: Names) -> dict[str, Any] | None:
    """Return the newest result as JSON-ready values, with ``ago``, its age in seconds; None without one.

    Raises `RedisUnavailable`.
    """
    found = await newest(redis, names)
    return None if found is None else {**found[0].model_dump(), "ago": found[1]}


async def newest(redis: Redis, names: Names) -> tuple[Published, float] | None:
    """Return the newest result and its age in seconds; None if there is none, or if it is unreadable.

    Raises `RedisUnavailable`.
    """
    try:
        async with redis.pipeline(transaction=True) as pipe:
            pipe.get(names.audit)
            pipe.pttl(names.audit)
            text, left = await pipe.execute()
    except RedisError as error:
        raise unavailable(error) from error
    if text is None:
        return None
    try:
        return Published.model_validate_json(text), round(max(0.0, KEPT - left / 1000), 1)
    except ValidationError:
        return None

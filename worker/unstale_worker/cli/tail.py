"""``unstale tail``: print the invalidations that agents receive."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.errors import MessageError
from unstale.protocol.globs import matches
from unstale.protocol.messages import Invalidation, UnknownVersion, Watermark, decode
from unstale.protocol.names import TAG, Names
from unstale.protocol.reasons import Reason, decode_reason
from unstale_worker.redis.applier import unavailable
from unstale_worker.redis.client import subscribe
from unstale_worker.rules import Rules
from unstale_worker.tracing.table_names import Changes, TableNames

WAIT: Final = 0.25
"""Maximum seconds of one wait for a message, so that a stop takes effect soon."""


@dataclass(frozen=True, slots=True)
class Line:
    """One invalidation from the channel.

    Attributes:
        at: Time of arrival, in seconds since 1970.
        epoch: Epoch of the log.
        id: Id of its log entry.
        keys: Keys that match the requested pattern.
        patterns: All invalidated patterns.
        watermark_age: Staleness bound of the newest watermark, in seconds; None before the first.
        missed: Number of log entries missed just before this one.
        kind: What happened, as in ``unstale why``; None if the log does not say.
        process: For a call of the cache: host and process id.
        changes: The changes that the entry stands for, summed up by table and operation.
    """

    at: float
    epoch: str
    id: int
    keys: tuple[str, ...]
    patterns: tuple[str, ...]
    watermark_age: float | None
    missed: int
    kind: str | None = None
    process: str | None = None
    changes: tuple[Changes, ...] = ()


async def follow(
    redis: Redis, names: Names, *, pattern: str | None, stop: asyncio.Event, rules: Rules | None = None
) -> AsyncGenerator[Line, None]:
    """Yield invalidations from now on until ``stop`` is set; raises `RedisUnavailable`.

    Watermarks are not yielded. Unreadable messages are skipped. ``rules`` name the tables of changes.
    """
    tables = TableNames(rules)
    epoch, last = "", 0
    caught_up: float | None = None
    async with aclosing(_payloads(redis, names, stop)) as payloads:
        async for payload in payloads:
            try:
                message = decode(payload)
            except MessageError:
                continue
            match message:
                case UnknownVersion():
                    continue
                case Watermark():
                    caught_up = time.monotonic() - message.age_ms / 1000
                    epoch, last = message.epoch, message.last
                case Invalidation():
                    missed = max(0, message.prev - last) if message.epoch == epoch else 0
                    epoch, last = message.epoch, message.id
                    keys = tuple(
                        key
                        for key in message.keys
                        if pattern is None or matches(pattern, key.removeprefix(TAG))
                    )
                    if keys or message.patterns:
                        reason = await _reason(redis, names, message.id)
                        yield Line(
                            at=time.time(),
                            epoch=message.epoch,
                            id=message.id,
                            keys=keys,
                            patterns=message.patterns,
                            watermark_age=None if caught_up is None else time.monotonic() - caught_up,
                            missed=missed,
                            kind=None if reason is None else reason.kind.name.lower(),
                            process=reason.process or None if reason is not None else None,
                            changes=tables.changes(reason),
                        )


async def _reason(redis: Redis, names: Names, number: int) -> Reason | None:
    """Return the reason that the log keeps beside a message; None if the entry is gone."""
    try:
        found: Any = await redis.xrange(names.log, min=f"{number}-0", max=f"{number}-0")
    except RedisError as error:
        raise unavailable(error) from error
    return decode_reason(found[0][1].get(b"w", b"")) if found else None


async def _payloads(redis: Redis, names: Names, stop: asyncio.Event) -> AsyncGenerator[bytes, None]:
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    try:
        await subscribe(pubsub, names)
        while not stop.is_set():
            message: dict[str, Any] | None = await pubsub.get_message(timeout=WAIT)
            if message is not None:
                yield message["data"]
    except RedisError as error:
        raise unavailable(error) from error
    finally:
        await pubsub.aclose()

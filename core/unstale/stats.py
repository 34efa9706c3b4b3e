"""Counters of one cache, and the statistics that ``cache.get_stats`` returns."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from unstale.errors import CacheClosed, MessageError, RedisUnavailable
from unstale.wiring import Parts


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of a cache since it was last started.

    Attributes:
        near_hits: Reads answered from the process' memory.
        redis_hits: Reads answered from Redis, including callers that waited for the same read.
        stale_hits: Reads answered with the value from before a change, as a rule's ``serve_stale`` allows.
        slow_hits: Reads answered with an older value because the load took longer than ``soft_timeout``.
        failed_hits: Reads answered with an older value because the load failed, as ``stale_if_error`` allows.
        misses: Reads that no cache answered.
        loads: Loads for a waiting caller.
        fills: Values stored in Redis under a lease.
        fills_refused: Values not stored because an invalidation or an eviction had removed the lease.
        too_large_values: Values returned but not stored, because `max_value_bytes` does not allow their size.
        unreadable_values: Cached values that their reader could not use: stored with a model of another
            schema, or by another program. Each is a miss.
        loads_ahead: Loads in the background, for values about to expire.
        unowned_loads: Loads of both kinds whose key no rule owns: changes do not invalidate it.
        invalidations: Messages, log entries and own invalidations, even if nothing was held.
        flushes: Times that everything was dropped.
        replays: Times that the log was read.
        unreadable_messages: Messages and log entries that could not be decoded.
        lost_invalidations: Own invalidations that Redis did not confirm.
        audited: Audits with a result: the cached value was equal or wrong.
        audit_mismatches: Audits that found a wrong value although no change was announced.
        audits_unjudged: Audits without a result: the key was invalidated meanwhile, or the loader's value
            could not be compared.
        evictions: Values dropped from memory because a bound was reached.
        near_entries: Values in memory now.
        near_bytes: Bytes counted for the values in memory.
    """

    near_hits: int
    redis_hits: int
    stale_hits: int
    slow_hits: int
    failed_hits: int
    misses: int
    loads: int
    fills: int
    fills_refused: int
    too_large_values: int
    unreadable_values: int
    loads_ahead: int
    unowned_loads: int
    invalidations: int
    flushes: int
    replays: int
    unreadable_messages: int
    lost_invalidations: int
    audited: int
    audit_mismatches: int
    audits_unjudged: int
    evictions: int
    near_entries: int
    near_bytes: int


def counters(parts: Parts) -> Counters:
    """Return the counters of one cache, without the near hits of other threads; no I/O."""
    local, auditor, tallies = parts.local, parts.auditor, parts.rules.tallies
    every = tuple(tallies.all)
    return Counters(
        near_hits=sum(tally.near_hits for tally in every),
        redis_hits=sum(tally.redis_hits for tally in every),
        stale_hits=sum(tally.stale_hits for tally in every),
        slow_hits=sum(tally.slow_hits for tally in every),
        failed_hits=sum(tally.failed_hits for tally in every),
        misses=sum(tally.misses for tally in every),
        loads=sum(tally.loads for tally in every),
        fills=sum(tally.fills for tally in every),
        fills_refused=sum(tally.fills_refused for tally in every),
        too_large_values=parts.rules.too_large_values,
        unreadable_values=parts.rules.unreadable_values,
        loads_ahead=sum(tally.early_loads for tally in every),
        unowned_loads=sum(tally.unowned_loads for tally in every),
        invalidations=local.invalidations,
        flushes=local.flushes,
        replays=parts.following.replays,
        unreadable_messages=parts.following.unreadable,
        lost_invalidations=parts.writer.lost_invalidations,
        audited=auditor.equal + auditor.mismatches,
        audit_mismatches=auditor.mismatches,
        audits_unjudged=auditor.unjudged,
        evictions=local.near.evictions,
        near_entries=len(local.near) + len(local.offline),
        near_bytes=local.near.size + local.offline.size,
    )


async def picture(parts: Parts, counters: Counters) -> dict[str, object]:
    """Return the state and the counters of one cache, JSON-ready.

    Redis is asked for its memory; without an answer, ``connected`` is False.
    """
    older = counters.stale_hits + counters.slow_hits + counters.failed_hits
    hits = counters.near_hits + counters.redis_hits + older
    reads = hits + counters.misses
    memory: int | None = None
    problem: str | None = None
    connected = False
    try:
        memory = await parts.tier.used_memory()
        connected = memory is not None
    except RedisUnavailable as error:
        problem = str(error)
    except MessageError:
        connected = True  # it answered, but does not tell
    except CacheClosed:
        pass
    freshness = parts.freshness
    staleness, watermark_age = freshness.staleness, freshness.watermark_age
    return {
        "enabled": parts.tier.shared,
        "connected": connected,
        "hit_rate": hits / reads if reads else 0.0,
        "cache_hits": hits,
        "cache_misses": counters.misses,
        "redis_memory": memory,
        "status": _status(parts, connected=connected),
        "problem": problem,
        "follows": parts.following.name,
        "attached": freshness.attached,
        "staleness": staleness if math.isfinite(staleness) else None,
        "watermark_age": watermark_age if math.isfinite(watermark_age) else None,
        "epoch": freshness.epoch,
        "last": freshness.last,
        **{name: value for name, value in asdict(counters).items() if name != "misses"},
    }


async def pictures(several: Sequence[Parts], counters: Counters) -> dict[str, object]:
    """Return the state of a cache that has these parts, one for each partition; see `picture`."""
    found = await asyncio.gather(*(picture(each, counters) for each in several))
    return found[0] if len(found) == 1 else _combined(found)


def _combined(pictures: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Return the picture of a cache whose partitions have these, with the same counters each.

    The state is that of the partition that is worst off, the memory that of the node that uses most.
    """
    first, followed = pictures[0], [each["staleness"] for each in pictures]
    ages = [each["watermark_age"] for each in pictures]
    memory = [each["redis_memory"] for each in pictures if each["redis_memory"] is not None]
    return {
        **first,
        "connected": all(each["connected"] for each in pictures),
        "redis_memory": max(memory, default=None),
        "status": max((each["status"] for each in pictures), key=_WORST.index),
        "problem": next((each["problem"] for each in pictures if each["problem"] is not None), None),
        "attached": all(each["attached"] for each in pictures),
        "staleness": None if None in followed else max(followed),
        "watermark_age": None if None in ages else max(ages),
        "epoch": None,
        "last": None,
        "partitions": [
            {name: each[name] for name in ("connected", "attached", "staleness", "epoch", "last")}
            for each in pictures
        ],
    }


_WORST: Final = ("healthy", "disabled", "detached", "unavailable")


def _status(parts: Parts, *, connected: bool) -> str:
    if parts.following.name == "nothing":
        return "disabled"
    if parts.tier.shared and not connected:
        return "unavailable"
    return "healthy" if parts.freshness.attached else "detached"

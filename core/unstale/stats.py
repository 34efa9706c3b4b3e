"""What ``cache.get_stats`` says: the seed's fields, and unstale's own beside them."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from unstale.errors import CacheClosed, MessageError, RedisUnavailable

if TYPE_CHECKING:
    from unstale.cache import Cache


@dataclass(frozen=True, slots=True)
class Counters:
    """What a cache has done since it was made.

    Attributes:
        near_hits: Reads answered from the process' memory.
        redis_hits: Reads answered from Redis, on their own or with others who waited.
        stale_hits: Reads answered with the value from before a change, as a rule's ``serve_stale`` allows.
        misses: Reads that no cache answered.
        loads: Loaders run.
        fills: Values stored in Redis under a lease.
        fills_refused: Values not stored: an invalidation (or an eviction) had taken the lease.
        loads_ahead: Loaders run in the background, for values about to expire.
        invalidations: Messages, log entries and own invalidations that dropped something or might have.
        flushes: Times everything was dropped.
        replays: Times the log was read.
        unreadable_messages: Messages and log entries that could not be decoded.
        lost_invalidations: Own invalidations that Redis did not confirm.
        audited: Cached values compared with what their loader said: equal, or wrong.
        audit_mismatches: Those that were wrong although no change was announced.
        audits_unjudged: Audits that a change overtook or whose loader could not be compared.
        evictions: Values dropped from memory because a bound was reached.
        near_entries: Values in memory now.
        near_bytes: Bytes they are counted with.
    """

    near_hits: int
    redis_hits: int
    stale_hits: int
    misses: int
    loads: int
    fills: int
    fills_refused: int
    loads_ahead: int
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


def count(cache: "Cache") -> Counters:
    """Read the counters; no I/O."""
    parts = cache._parts
    subscriber, reader, near = parts.subscriber, parts.reader, parts.near
    return Counters(
        near_hits=cache._near_hits,
        redis_hits=cache._redis_hits,
        stale_hits=cache._stale_hits,
        misses=cache._misses,
        loads=reader.loads,
        fills=reader.fills,
        fills_refused=reader.fills_refused,
        loads_ahead=parts.ahead.loads,
        invalidations=near.invalidations,
        flushes=near.flushes,
        replays=subscriber.replays if subscriber is not None else 0,
        unreadable_messages=subscriber.unreadable if subscriber is not None else 0,
        lost_invalidations=parts.writer.lost_invalidations,
        audited=parts.auditor.equal + parts.auditor.mismatches,
        audit_mismatches=parts.auditor.mismatches,
        audits_unjudged=parts.auditor.unjudged,
        evictions=near.followed.evictions,
        near_entries=len(near.followed) + len(near.adrift),
        near_bytes=near.followed.size + near.adrift.size,
    )


async def describe(cache: "Cache") -> dict[str, object]:
    """A JSON-ready picture of the cache now; asks Redis for its memory, and does not mind if it is away."""
    counters = count(cache)
    hits = counters.near_hits + counters.redis_hits + counters.stale_hits
    reads = hits + counters.misses
    memory: str | None = None
    if cache._tier is not None:
        try:
            memory = await cache._tier.memory()
        except (RedisUnavailable, CacheClosed, MessageError):
            memory = None
    staleness, watermark_age = cache.staleness, cache._follower.watermark_age
    enabled, connected = cache._tier is not None, memory is not None
    return {
        "enabled": enabled,
        "connected": connected,
        "hit_rate": f"{hits / reads * 100 if reads else 0.0:.1f}%",
        "cache_hits": hits,
        "cache_misses": counters.misses,
        "redis_memory": memory,
        "status": _status(cache, connected=connected),
        "follows": "log" if enabled else "outbox" if cache._parts.embedded is not None else "nothing",
        "attached": cache.attached,
        "staleness": staleness if math.isfinite(staleness) else None,
        "watermark_age": watermark_age if math.isfinite(watermark_age) else None,
        "epoch": cache._follower.epoch,
        "last": cache._follower.last,
        **{name: value for name, value in asdict(counters).items() if name != "misses"},
    }


def _status(cache: "Cache", *, connected: bool) -> str:
    if cache._tier is None and cache._parts.embedded is None:
        return "disabled"
    if cache._tier is not None and not connected:
        return "unavailable"
    return "healthy" if cache.attached else "detached"

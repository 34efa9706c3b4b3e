"""The Lua scripts as functions from one Redis to the next, under the names of their files."""

from .defences import Defence
from .world import (
    Entry,
    Known,
    Mask,
    Message,
    Page,
    Redis,
    Seen,
    Stale,
    Standing,
    Told,
    Versions,
    Worker,
    newest,
    replaced,
)


def state(redis: Redis, run: int) -> Known:
    """``state.lua``: the state and the live server's run, in one atomic read."""
    return Known(
        redis.epoch, redis.run, run, redis.position, redis.database, redis.flushed, redis.primary_until
    )


def refused(redis: Redis, worker: Worker, off: frozenset[Defence], *, same_run: bool, epoch: bool) -> bool:
    """``refusal`` of ``_common.lua``; with ``epoch`` also run and epoch must stand."""
    known = worker.known
    assert known is not None
    if redis.fence != worker.fence and Defence.FENCE not in off:
        return True
    if epoch and not same_run and Defence.RUN_COMPARED not in off:
        return True
    if epoch and redis.epoch != known.epoch and Defence.EPOCH_COMPARED not in off:
        return True
    if redis.stamp != worker.stamp and Defence.STAMP not in off:
        return True
    return redis.position != known.position and Defence.POSITION_COMPARED not in off


def unlink(redis: Redis, keys: Mask) -> Redis:
    """UNLINK."""
    if not keys:
        return redis
    return redis._replace(
        keys=tuple(None if keys >> number & 1 else entry for number, entry in enumerate(redis.keys))
    )


def set_aside(
    redis: Redis, page: Page, keys: Mask, told: Versions, *, serve_stale: bool, off: frozenset[Defence]
) -> Redis:
    """What ``apply.lua`` does to keys that are made new when they change."""
    for key in range(len(redis.keys)):
        if not keys >> key & 1:
            continue
        there, stale = redis.keys[key], redis.stale[key]
        redis = redis._replace(keys=replaced(redis.keys, key, None))
        if page.purged >> key & 1 and Defence.PURGE_WINS not in off:
            if Defence.PURGE_DROPS_STALE not in off:
                redis = drop_stale(redis, 1 << key)
            redis = redis._replace(queue=redis.queue & ~(1 << key), owed=redis.owed & ~(1 << key))
            continue
        value = there is not None and there[0] == "value"
        if not value and stale is None:
            continue
        if value and there is not None and serve_stale:
            stale = Stale(there[1], told[key], told[key])
        elif stale is not None and Defence.STALE_LIFE in off:
            stale = stale._replace(until=told[key])
        redis = redis._replace(stale=replaced(redis.stale, key, stale), owed=redis.owed | 1 << key)
        if Defence.QUEUED_WITH_EFFECTS not in off:
            redis = redis._replace(queue=redis.queue | 1 << key)
    return redis


def drop_stale(redis: Redis, keys: Mask) -> Redis:
    """UNLINK of the stale values of these keys."""
    left = tuple(None if keys >> number & 1 else entry for number, entry in enumerate(redis.stale))
    return redis._replace(stale=left)


def append(
    redis: Redis, epoch: int, keys: Mask, invalidated: Versions, log_max: int, skipped: int = 0
) -> tuple[Redis, Message]:
    """``append`` of ``_common.lua``: one log entry and the message that says the same."""
    last = redis.last + 1 + skipped
    told = newest(redis.invalidated, invalidated)
    log = (*redis.log, Entry(last, keys, told))[-log_max:]
    message = Message("invalidation", epoch, last, redis.last, keys, told)
    return redis._replace(last=last, log=log, invalidated=told), message


def raise_need_lsn(redis: Redis, lsn: int) -> Redis:
    """Loaders may read a replica only from here on."""
    return redis._replace(need_lsn=max(redis.need_lsn, lsn))


def store_position(redis: Redis, page: Page) -> Redis:
    """What the last script of a batch does beside the others' work."""
    return redis._replace(position=page.position, database=page.database, flushed=page.lsn)


def publish_seen(redis: Redis, epoch: int, seen: Seen, *, any_primary: bool) -> tuple[Redis, Message]:
    """``publish_seen`` of ``_common.lua``: a watermark; clears a ``primary_until`` from before the read."""
    if redis.primary_until and (redis.primary_until == seen.primary_until or any_primary):
        redis = raise_need_lsn(redis, seen.lsn)._replace(primary_until=0)
    redis = redis._replace(read_epoch=epoch)
    return redis, watermark_message(redis, epoch, seen.told)


def watermark_message(redis: Redis, epoch: int, told: Told | None) -> Message:
    """A watermark says the newest id."""
    return Message("watermark", epoch, redis.last, redis.last, 0, redis.invalidated, told)


def new_epoch(redis: Redis, run: int, epoch: int) -> tuple[Redis, Message]:
    """``new_epoch.lua``: another history, from the stored position."""
    redis = redis._replace(epoch=epoch, run=run)
    return redis, Message("invalidation", epoch, redis.last, redis.last, 0, redis.invalidated)


def recover(redis: Redis, run: int, epoch: int, page: Page, invalidated: Versions) -> tuple[Redis, Message]:
    """``recover.lua``: the snapshot's position under a new epoch, and an empty log."""
    redis = store_position(raise_need_lsn(redis, page.lsn), page)
    redis = redis._replace(epoch=epoch, run=run, log=(), invalidated=invalidated, read_epoch=epoch)
    return redis, watermark_message(redis, epoch, page.told)


def direct(
    redis: Redis,
    keys: Mask,
    invalidated: Versions,
    lsn: int | None,
    log_max: int,
    *,
    same_run: bool,
    pattern: bool,
    stale: bool = True,
    skipped: int = 0,
) -> tuple[Redis, Message | None]:
    """``direct.lua``: an agent's own invalidation; a pattern's unlinks nothing by itself."""
    if not pattern:
        redis = unlink(redis, keys)
        if stale:
            redis = drop_stale(redis, keys)
    if not redis.epoch or not same_run:
        return redis, None
    redis, message = append(redis, redis.epoch, keys, invalidated, log_max, skipped)
    if lsn is None:
        return redis._replace(primary_until=message.id), message
    return raise_need_lsn(redis, lsn), message


def take(redis: Redis, key: int, token: int, *, soft: bool) -> tuple[Redis, Standing]:
    """``acquire.lua``, or ``takeover.lua`` where a soft lease stands; what stands there afterwards."""
    found = redis.keys[key]
    if found is None or (found[0] == "soft" and not soft):
        found = ("soft" if soft else "lease", token)
        redis = redis._replace(keys=replaced(redis.keys, key, found))
    return redis, found


def replace(redis: Redis, key: int, token: int) -> tuple[Redis, Standing]:
    """``replace.lua``: a lease on the value that stands, which stays readable, or else in its place."""
    found = redis.keys[key]
    lease: Standing = ("value", found[1], token) if found and found[0] == "value" else ("lease", token)
    return redis._replace(keys=replaced(redis.keys, key, lease)), lease


def fill(
    redis: Redis, key: int, lease: Standing, version: int, *, compare: bool, off: frozenset[Defence]
) -> tuple[Redis, bool]:
    """``fill.lua``: compare-and-set on the lease; the stale value and the place in the refresh set go."""
    done = redis._replace(queue=redis.queue & ~(1 << key))
    live = bool(redis.epoch) or Defence.LIVE_FILL in off
    if not live or (compare and redis.keys[key] != lease):
        return (done if Defence.DONE_COMPARES in off else redis), False
    if Defence.FILL_DROPS_STALE not in off:
        done = drop_stale(done, 1 << key)
    done = done._replace(owed=done.owed & ~(1 << key))
    return done._replace(keys=replaced(redis.keys, key, ("value", version))), True

"""Snapshot of what Redis knows about the worker and its agents, for ``unstale stats``."""

from dataclasses import asdict, dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from unstale.protocol.names import Names
from unstale_worker.redis.applier import STATE, unavailable
from unstale_worker.redis.state import StoredState


@dataclass(frozen=True, slots=True)
class Stats:
    """Redis' part of the protocol at one moment.

    Attributes:
        epoch: The history of the log in force; empty before the first worker.
        run: ``live`` if the epoch belongs to the server that answers. Else ``old``: no worker has seen the
            failover yet. Empty if the server does not tell.
        position: Transactions applied, as a ``pg_snapshot``.
        lsn: WAL position that covers it.
        rules: Hash of the rules in force.
        fence: Number of the newest leadership.
        leader: True if a worker holds the lease.
        lease_ms: Milliseconds until the lease expires.
        watermark_age: Seconds since the last watermark, by Redis' clock; None before the first.
        last: Id of the newest log entry.
        log_entries: Entries in the log.
        log_bytes: Bytes the log is counted with.
        agents: Subscribers of the invalidations; None if PUBSUB is refused.
        keys: Keys in this Redis database, of any writer.
        memory: Memory that Redis uses, as text; empty if INFO is refused.
    """

    epoch: str
    run: str
    position: str
    lsn: str
    rules: str
    fence: int
    leader: bool
    lease_ms: int
    watermark_age: float | None
    last: int
    log_entries: int
    log_bytes: int
    agents: int | None
    keys: int
    memory: str

    def as_dict(self) -> dict[str, object]:
        """Return JSON-ready values."""
        return asdict(self)


async def read_stats(redis: Redis, names: Names) -> Stats:
    """Read them from Redis; raises `RedisUnavailable`."""
    try:
        reply = await STATE(redis, keys=[names.state])
        fields = {bytes(name): bytes(value).decode() for name, value in _pairs(reply[2:])}
        state = StoredState.read(reply[0], reply[2:])
        seconds, microseconds = await redis.time()
        applied_at = fields.get(b"applied_at")
        lease = int(await redis.pttl(names.leader))
        entries = int(await redis.xlen(names.log))
        return Stats(
            epoch=state.epoch,
            run=""
            if not (state.run and state.live_run)
            else "live"
            if state.run == state.live_run
            else "old",
            position=state.position,
            lsn=fields.get(b"lsn", ""),
            rules=state.rules,
            fence=int(state.fence or 0),
            leader=lease > 0,
            lease_ms=max(0, lease),
            watermark_age=(
                round(max(0.0, seconds + microseconds / 1e6 - int(applied_at) / 1e3), 3)
                if applied_at
                else None
            ),
            last=int(fields.get(b"last", 0)),
            log_entries=entries,
            log_bytes=int(fields.get(b"log_bytes", 0)),
            agents=await subscribers(redis, names),
            keys=int(await redis.dbsize()),
            memory=await _memory(redis),
        )
    except RedisError as error:
        raise unavailable(error) from error


async def subscribers(redis: Redis, names: Names) -> int | None:
    """Return how many follow the log; None if PUBSUB is refused."""
    try:
        ask = redis.pubsub_shardnumsub if names.cluster else redis.pubsub_numsub
        found = await ask(names.channel)
    except ResponseError:
        return None
    return int(found[0][1]) if found else 0


async def _memory(redis: Redis) -> str:
    try:
        return str((await redis.info("memory")).get("used_memory_human", ""))
    except ResponseError:  # INFO is refused
        return ""


def lines(stats: Stats) -> list[tuple[str, str]]:
    """Return names and values for people, in reading order."""
    age = stats.watermark_age
    entries = _counted(stats.log_entries, "entry", "entries")
    size = _counted(stats.log_bytes, "byte", "bytes")
    return [
        ("leader", f"yes, lease for {stats.lease_ms} ms" if stats.leader else "none"),
        ("fence", str(stats.fence)),
        ("watermark", "never" if age is None else f"{age:.3f} s ago"),
        ("epoch", f"{stats.epoch or 'none'}{' (of an older server)' if stats.run == 'old' else ''}"),
        ("position", stats.position or "none"),
        ("lsn", stats.lsn or "none"),
        ("rules", stats.rules or "none"),
        ("log", ", ".join([entries, size, f"newest {stats.last:,}"])),
        ("agents", "unknown" if stats.agents is None else str(stats.agents)),
        ("keys", f"{stats.keys:,}"),
        ("memory", stats.memory or "unknown"),
    ]


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))

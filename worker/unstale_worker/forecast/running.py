"""The running system, as far as a restart of its worker with other rules is concerned."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.errors import MessageError
from unstale.protocol.globs import glob_regex
from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import TAG, Names
from unstale_worker.agents.read import Agents, read_agents
from unstale_worker.forecast.restart import RECOVERY
from unstale_worker.observe.overview import subscribers
from unstale_worker.redis.applier import STATE, unavailable
from unstale_worker.redis.key_scan import scan
from unstale_worker.redis.state import Adopting, StoredState


@dataclass(frozen=True, slots=True)
class Running:
    """The rules in force, and their use, by Redis.

    Attributes:
        published: The rules that agents follow.
        recovery: Why a worker would drop every owned key; empty if it would not.
        pending: Patterns that a worker was about to drop.
        agents: Processes that follow the log now; None if PUBSUB is refused.
        reports: Those of them that report.
        leader: True if a worker leads.
        refreshes: Keys that wait for a refresh.
    """

    published: PublishedRules
    recovery: str
    pending: tuple[str, ...]
    agents: int | None
    reports: Agents
    leader: bool
    refreshes: int


async def read_running(redis: Redis, names: Names) -> Running:
    """Read it from Redis; changes nothing. Raises `RedisUnavailable`."""
    try:
        reply = await STATE(redis, keys=[names.state])
        state = StoredState.read(reply[0], reply[2:])
        stored: bytes | None = await redis.execute_command("GET", names.rules)
        agents = await subscribers(redis, names)
        reports = await read_agents(redis, names)
        leader = bool(await redis.exists(names.leader))
        refreshes = int(await redis.zcard(names.refresh))
    except RedisError as error:
        raise unavailable(error) from error
    published, recovery, pending = PublishedRules(), "", tuple[str, ...]()
    if not state.position:
        recovery = f"{RECOVERY} (no worker has stored a position)"
    try:
        published = PublishedRules() if stored is None else PublishedRules.decode(stored)
    except MessageError:
        stored = None
    adopting = Adopting.read(state)
    if not recovery and (stored is None or adopting is None or published.hash != adopting.before):
        recovery = f"{RECOVERY} (Redis has lost the published rules, or they are unreadable)"
    elif adopting is not None:
        pending = adopting.patterns
    return Running(published, recovery, pending, agents, reports, leader, refreshes)


async def count_keys(redis: Redis, names: Names, patterns: Iterable[str]) -> Mapping[str, int]:
    """Count the keys of each pattern with SCAN, which visits every key of the database once.

    A key counts for every pattern that matches it. Keys that come and go meanwhile may be missed, and SCAN
    may return a key twice.
    """
    wanted = sorted(patterns)
    tests = [(pattern, glob_regex(pattern).match) for pattern in wanted]
    every = ["*", f"{TAG}*"] if names.cluster else ["*"]
    counts = dict.fromkeys(wanted, 0)

    async def step(*command: Any) -> tuple[bytes, list[bytes]]:
        cursor, found = await redis.execute_command(*command)  # redis-py makes the cursor a number
        return b"%d" % cursor, found

    try:
        async for keys in scan(step, names, every if wanted else [], beside=False):
            for name in keys:
                key = names.key_of(name.decode("utf-8", "surrogateescape"))
                for pattern, test in tests:
                    if test(key.encode("utf-8", "surrogateescape")):
                        counts[pattern] += 1
    except RedisError as error:
        raise unavailable(error) from error
    return counts

"""A day of traffic in 24 seconds: three instances of an agent read, somebody writes, every read is checked.

An hour of the day is a second, so TTLs are 3,600 times shorter, too: an hour is 1 s, two minutes are 33 ms.
Three ways to read the same day: straight from the database; through a cache that stands by its TTLs, as the
original's does (and which the agents that write clear themselves); and through unstale.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from harness import leads, servers, worker
from redis.asyncio import BlockingConnectionPool, Redis

from unstale import Cache, Invalidated

HOUR: Final = 1.0
"""Seconds of the run that stand for an hour of the day."""
INSTANCES: Final = 3
USERS: Final = 200
SESSIONS: Final = 600
"""Conversations a day, most of them in the evening."""
TURNS: Final = 12
SESSION_HOURS: Final = 0.25
OUTSIDE: Final = 0.3
"""Share of the changes that no agent makes: a dashboard, a job, another service."""
TTL_HOURS: Final = {"profile": 1.0, "settings": 0.5, "greeting_instructions": 2 / 60}
"""The original's."""
RULES: Final = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:greeting_instructions", "trace:profile:{id}:{version}"]

[[watch]]
table = "public.preferences"
keys = ["user:{user_id}:settings", "trace:settings:{user_id}:{version}"]
"""
SCHEMA: Final = """
create table public.profiles (id bigint primary key, name text not null, version bigint not null default 0);
create table public.preferences (
    user_id bigint primary key, voice text not null, version bigint not null default 0
);
insert into public.profiles (id, name) select n, 'user ' || n from generate_series(1, 200) as n;
insert into public.preferences (user_id, voice) select n, 'alloy' from generate_series(1, 200) as n;
select unstale.watch('public.profiles', '{id,version}');
select unstale.watch('public.preferences', '{user_id,version}');
"""
LOAD: Final = {
    "profile": "select id, name, version from public.profiles where id = $1",
    "greeting_instructions": "select 'Hello ' || name as text, version from public.profiles where id = $1",
    "settings": "select voice, version from public.preferences where user_id = $1",
}
CHANGE: Final = {
    "profile": "update public.profiles set version = version + 1 where id = $1 returning version",
    "settings": "update public.preferences set version = version + 1 where user_id = $1 returning version",
}
TABLE_OF: Final = {"profile": "profile", "greeting_instructions": "profile", "settings": "settings"}

Read = Callable[[int, str, int], Awaitable[dict[str, Any]]]
Cleared = Callable[[int, str, int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Event:
    """Something of the day, due ``at`` seconds of the run: a read, or a change by an agent or by others."""

    at: float
    instance: int
    kind: str
    user: int
    change: bool = False
    outside: bool = False


def day(*, seed: int, scale: float) -> list[Event]:
    """The same for everybody who asks with the same seed; ``scale`` leaves sessions out."""
    chance = random.Random(seed)
    events: list[Event] = []
    weights = [1 / n**0.9 for n in range(1, USERS + 1)]
    for _ in range(max(10, round(SESSIONS * scale))):
        user = chance.choices(range(1, USERS + 1), weights)[0]
        begin = min(23.5, max(0.0, chance.gauss(19, 4) % 24))
        instance = chance.randrange(INSTANCES)  # a load balancer, not a home
        for turn in range(TURNS):
            at = (begin + SESSION_HOURS * turn / TURNS) * HOUR
            kinds = ("profile", "settings", "greeting_instructions") if turn == 0 else ("profile", "settings")
            events += [Event(at, instance, kind, user) for kind in kinds]
        if chance.random() < 0.15:
            at = (begin + SESSION_HOURS * chance.random()) * HOUR
            kind = "profile" if chance.random() < 0.6 else "settings"
            outside = chance.random() < OUTSIDE
            events.append(Event(at, instance, kind, user, change=True, outside=outside))
    return sorted(events, key=lambda event: event.at)


@dataclass(slots=True)
class Score:
    """What came of a day.

    Attributes:
        reads: Values read.
        queries: Queries that the database was asked for them.
        behind: Reads that were older than the newest commit when they began.
        oldest: Seconds by which they were, at most.
        stale: Of those: older than what their instance had been told of.
    """

    reads: int = 0
    queries: int = 0
    behind: int = 0
    oldest: float = 0.0
    stale: int = 0
    commits: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    heard: list[dict[tuple[str, int], int]] = field(default_factory=lambda: [{} for _ in range(INSTANCES)])

    def figures(self) -> dict[str, float]:
        return {
            "reads": self.reads,
            "queries": self.queries,
            "queries_saved_percent": 100 * (1 - self.queries / self.reads),
            "older_than_the_newest_commit": self.behind,
            "oldest_ms_of_the_run": self.oldest * 1000,
            "oldest_minutes_of_the_day": self.oldest / HOUR * 60,
            "stale_reads": self.stale,
        }


async def live(
    events: Sequence[Event], pool: asyncpg.Pool, read: Read, cleared: Cleared, score: Score
) -> None:
    """Let the day happen; what falls behind its time is done at once."""

    async def one(event: Event) -> None:
        row = (TABLE_OF[event.kind], event.user)
        if event.change:
            await pool.fetchval(CHANGE[event.kind], event.user)
            score.commits.setdefault(row, []).append(time.monotonic())
            if not event.outside:
                await cleared(event.instance, event.kind, event.user)
            return
        began, commits = time.monotonic(), len(score.commits.get(row, ()))
        told = score.heard[event.instance].get(row, 0)
        value = await read(event.instance, event.kind, event.user)
        score.reads += 1
        if value["version"] < commits:
            score.behind += 1
            score.oldest = max(score.oldest, began - score.commits[row][value["version"]])
        score.stale += value["version"] < told

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for event in events:
            pause = began + event.at - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            group.create_task(one(event))


async def loaded(pool: asyncpg.Pool, kind: str, user: int) -> dict[str, Any]:
    """What a reader that misses asks the database for."""
    row = await pool.fetchrow(LOAD[kind], user)
    assert row is not None
    return dict(row)


async def without(events: Sequence[Event], dsn: str) -> Score:
    """The original without Redis: each read is a query."""
    score = Score()
    async with asyncpg.create_pool(dsn, min_size=4, max_size=20) as pool:

        async def read(instance: int, kind: str, user: int) -> dict[str, Any]:
            score.queries += 1
            return await loaded(pool, kind, user)

        async def cleared(instance: int, kind: str, user: int) -> None: ...

        # Nothing depends on the clock here: the day may be over in a moment.
        await live(
            [Event(0.0, e.instance, e.kind, e.user) for e in events if not e.change],
            pool,
            read,
            cleared,
            score,
        )
    return score


async def by_ttl(events: Sequence[Event], dsn: str, redis_url: str) -> Score:
    """The original's cache: JSON in Redis with a TTL; who changes a value through an agent clears it."""
    score = Score()
    connections = BlockingConnectionPool.from_url(redis_url, max_connections=50, timeout=None)
    redis: Any = Redis.from_pool(connections)
    async with asyncpg.create_pool(dsn, min_size=4, max_size=20) as pool, redis:

        async def read(instance: int, kind: str, user: int) -> dict[str, Any]:
            key = f"user:{user}:{kind}"
            cached = await redis.get(key)
            if cached is not None:
                known: dict[str, Any] = json.loads(cached)
                return known
            score.queries += 1
            value = await loaded(pool, kind, user)
            await redis.set(key, json.dumps(value), px=max(1, round(TTL_HOURS[kind] * HOUR * 1000)))
            return value

        async def cleared(instance: int, kind: str, user: int) -> None:
            await redis.delete(f"user:{user}:{kind}")

        await live(events, pool, read, cleared, score)
    return score


async def by_unstale(events: Sequence[Event], dsn: str, redis_url: str) -> Score:
    """unstale with the same TTLs: what differs is that changes invalidate, whoever makes them."""
    score = Score()
    async with AsyncExitStack() as cleanup:
        pool = await cleanup.enter_async_context(asyncpg.create_pool(dsn, min_size=4, max_size=20))
        caches = [
            await cleanup.enter_async_context(Cache.from_env(env_file=None, redis_url=redis_url))
            for _ in range(INSTANCES)
        ]

        async def listen(number: int) -> None:
            async with caches[number].subscribe("trace:*") as changes:
                async for change in changes:
                    for key in change.keys if isinstance(change, Invalidated) else ():
                        _, table, user, version = key.split(":")
                        row, heard = (table, int(user)), score.heard[number]
                        heard[row] = max(heard.get(row, 0), int(version))

        async def read(instance: int, kind: str, user: int) -> dict[str, Any]:
            async def load() -> dict[str, Any]:
                score.queries += 1
                return await loaded(pool, kind, user)

            value: dict[str, Any] = await caches[instance].get_or_load(
                f"user:{user}:{kind}", load, ttl=TTL_HOURS[kind] * HOUR
            )
            return value

        async def cleared(instance: int, kind: str, user: int) -> None:
            """Nothing to do: the trigger has seen it."""

        listening = [asyncio.create_task(listen(number)) for number in range(INSTANCES)]
        await live(events, pool, read, cleared, score)
        if not any(score.heard):
            raise SystemExit("no instance heard of a change")
        for task in listening:
            task.cancel()
        await asyncio.wait(listening)
    return score


async def day_of_traffic(*, seed: int, scale: float) -> dict[str, Any]:
    """The figures of the same day, lived three times, each in a fresh database and Redis."""
    events = day(seed=seed, scale=scale)
    found: dict[str, Any] = {}
    async with servers(sql=SCHEMA) as running:
        found["original"] = (await without(events, running.database_url)).figures()
        found["by_ttl"] = (await by_ttl(events, running.database_url, running.redis_url)).figures()
    async with servers(sql=SCHEMA) as running:
        redis: Any = Redis.from_url(running.redis_url)
        with worker(running, rules=RULES) as process:
            async with redis:
                await leads(redis, process=process)
            found["unstale"] = (await by_unstale(events, running.database_url, running.redis_url)).figures()
    changes = [event for event in events if event.change]
    outside = sum(event.outside for event in changes)
    return {"changes": len(changes), "by_others": outside, **found}

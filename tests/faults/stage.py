"""A database, a Redis, agents that load from the database, and the question whether all of them agree."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Self

import asyncpg
import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from servers import PATIENCE, eventually
from unstale import Cache
from unstale.protocol.codec import is_value
from unstale.protocol.messages import Snapshot
from unstale.protocol.names import Names
from workers import SCHEMA, state_of

USERS = 20


def key_of(user: int) -> str:
    """The key that `SCHEMA`'s rule owns."""
    return f"user:{user}:profile"


@dataclass
class Stage:
    """Writes go to the database; agents read through their caches; `settled` compares everything."""

    db: asyncpg.Connection
    reader: asyncpg.Pool
    redis_url: str
    names: Names = field(default_factory=Names)
    agents: list[Cache] = field(default_factory=list)
    _exits: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def write(self, user: int) -> int:
        """Commit a change of one row; returns its new version."""
        version: int = await self.db.fetchval(
            "insert into profiles values ($1, 'x', 1) on conflict (id) do update "
            "set version = profiles.version + 1 returning version",
            user,
        )
        return version

    async def load(self, user: int) -> int | None:
        """What a loader reads: the version in the database."""
        version: int | None = await self.reader.fetchval("select version from profiles where id = $1", user)
        return version

    async def read(self, user: int, agent: int = 0) -> int | None:
        """Read through an agent's cache."""
        version: int | None = await self.agents[agent].get_or_load(key_of(user), lambda: self.load(user))
        return version

    async def warm(self, users: int = USERS) -> None:
        """Every agent reads every row, so that both tiers hold them."""
        assert self.agents, "open an agent first"
        for agent in range(len(self.agents)):
            await asyncio.gather(*(self.read(user, agent) for user in range(1, users + 1)))

    async def open_cache(self, redis_url: str | None = None, **more: Any) -> Cache:
        """A cache that may stay detached."""
        return await self._exits.enter_async_context(
            Cache.from_env(env_file=None, redis_url=redis_url or self.redis_url, **more)
        )

    async def open_agent(self, redis_url: str | None = None, **more: Any) -> Cache:
        """One more agent, which is waited for until it is attached."""
        cache = await self.open_cache(redis_url, **more)
        self.agents.append(cache)
        await eventually(lambda: cache.attached, message="the agent is attached")
        return cache

    async def truth(self) -> dict[str, int]:
        """Every key with the value it should have."""
        return {key_of(row[0]): row[1] for row in await self.db.fetch("select id, version from profiles")}

    async def applied(self, redis: Redis, *, timeout: float = PATIENCE) -> None:
        """Wait until the stored position contains every transaction that is in the outbox now."""
        xids = [int(row[0]) for row in await self.db.fetch("select distinct xid::text from unstale.outbox")]

        async def all_in() -> bool:
            position = (await state_of(redis, self.names)).get("position")
            return bool(position) and all(map(Snapshot.parse(str(position)).includes, xids))

        await eventually(all_in, timeout=timeout, message="the position contains everything")

    async def settled(self, redis: Redis, *, timeout: float = PATIENCE) -> None:
        """Wait until the worker has applied everything; then no cached value may differ from the database."""
        await self.applied(redis, timeout=timeout)
        truth = await self.truth()
        wrong = {
            key: (value, truth.get(key))
            for key, value in (await self.redis_values(redis)).items()
            if value != truth.get(key)
        }
        assert not wrong, f"stale in Redis: {wrong}"
        for cache in self.agents:
            await eventually(partial(attrgetter("attached"), cache), message="the agent is attached again")

            async def agrees(cache: Cache = cache) -> bool:
                last = await redis.hget(self.names.state, "last")
                epoch = await redis.hget(self.names.state, "epoch")
                follower = cache.inspect().freshness
                return follower.last == int(last or 0) and (follower.epoch or "").encode() == epoch

            await eventually(agrees, message="the agent has heard everything")
            wrong = {
                key: (orjson.loads(entry.data), truth.get(key))
                for key, entry in cache.inspect().local.near._entries.items()
                if orjson.loads(entry.data) != truth.get(key)
            }
            assert not wrong, f"stale in a near cache: {wrong}"

    async def redis_values(self, redis: Redis) -> dict[str, Any]:
        """The values (not the leases) of profiles in Redis."""
        found = {}
        async for name in redis.scan_iter(match=self.names.stored("user:*:profile"), count=1000):
            data: Any = await redis.get(name)
            if data is not None and is_value(data):
                found[self.names.key_of(name.decode())] = orjson.loads(data)
        return found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()


@asynccontextmanager
async def staged(
    dsn: str, redis_url: str, *, schema: bool = True, names: Names | None = None
) -> AsyncIterator[tuple[Stage, Redis]]:
    """A stage without worker and agents, and a plain Redis client."""
    async with AsyncExitStack() as stack:
        # One retry: the test's own client may meet a connection that a fault has ended.
        redis: Redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 1))
        stack.push_async_callback(redis.aclose)
        db = await asyncpg.connect(dsn)
        stack.push_async_callback(db.close)
        if schema:
            await db.execute(SCHEMA)
            await db.execute(
                "insert into profiles select g, 'x', 1 from generate_series(1, $1::int) g", USERS
            )
        reader = await asyncpg.create_pool(dsn, min_size=1, max_size=4)
        stack.push_async_callback(reader.close)
        stage = await stack.enter_async_context(Stage(db, reader, redis_url, names or Names()))
        yield stage, redis

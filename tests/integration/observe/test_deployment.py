"""The four deployments of docs/deployment.md, with the same agent in each; switching, and losing Redis."""

import asyncio
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from servers import Database, eventually
from unstale import Cache, LockTimeout, RedisUnavailable
from unstale_worker.dev_servers import EmbeddedValkey
from workers import PROFILES, SCHEMA, connected, running_worker
from workers.no_redis import NOWHERE, alone

KEY = "user:1:profile"


@dataclass
class Deployment:
    """Some instances of an agent, with Redis or without."""

    database: Database
    db: asyncpg.Connection
    redis_url: str | None
    loads: int = 0

    @asynccontextmanager
    async def instance(self) -> AsyncIterator[Cache]:
        """One more process of the agent: what differs is what the environment says."""
        if self.redis_url is None:
            async with alone(self.database.worker_dsn) as cache:
                yield cache
        else:
            async with Cache.from_env(env_file=None, redis_url=self.redis_url) as cache:
                await eventually(lambda: cache.attached)
                yield cache

    async def load(self) -> str | None:
        """The agent's loader."""
        self.loads += 1
        name: str | None = await self.db.fetchval("select name from profiles where id = 1")
        return name

    async def rename(self, name: str) -> str:
        """A change by anybody; returns its token."""
        async with self.db.transaction():
            await self.db.execute("update profiles set name = $1 where id = 1", name)
            token: str = await self.db.fetchval("select unstale.token()")
        return token


@asynccontextmanager
async def deployed(database: Database, redis_url: str | None) -> AsyncIterator[Deployment]:
    """The database, and with Redis a worker."""
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(connected(database.dsn))
        await db.execute(SCHEMA)
        await db.execute("insert into profiles values (1, 'Ada')")
        if redis_url is not None:
            await stack.enter_async_context(running_worker(database.worker_dsn, redis_url))
        yield Deployment(database, db, redis_url)


@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("with_redis", [False, True])
async def test_the_same_agent_in_every_deployment(
    database: Database, redis_url: str, with_redis: bool, instances: int
) -> None:
    async with deployed(database, redis_url if with_redis else None) as all_of_it, AsyncExitStack() as stack:
        caches = [await stack.enter_async_context(all_of_it.instance()) for _ in range(instances)]

        async def names() -> list[str | None]:
            return [await cache.get_or_load(KEY, all_of_it.load) for cache in caches]

        assert await names() == await names() == ["Ada"] * instances
        assert all_of_it.loads == (1 if with_redis else instances)  # shared, or each its own
        assert all(cache.attached and cache.staleness < math.inf for cache in caches)
        token = await all_of_it.rename("Grace")
        for cache in caches:
            await cache.wait_for(token, timeout=20)
        assert await names() == ["Grace"] * instances  # consistent in every one of them
        assert [(await cache.get_stats())["status"] for cache in caches] == ["healthy"] * instances

        loads = all_of_it.loads
        async with all_of_it.instance() as started_again:
            assert await started_again.get_or_load(KEY, all_of_it.load) == "Grace"
        assert all_of_it.loads == (loads if with_redis else loads + 1)  # it survives a restart, or does not

        async with caches[0].lock("user:1:greeting"):
            second = caches[-1].lock("user:1:greeting", timeout=0.05)
            if with_redis or instances == 1:
                with pytest.raises(LockTimeout):
                    await second.__aenter__()
            else:
                async with second:  # of another process: it knows nothing of the first
                    pass


async def test_own_keys_are_shared_with_redis_and_only_local_without(
    database: Database, redis_url: str
) -> None:
    for url in (redis_url, None):
        async with deployed(database, url) as it, it.instance() as one, it.instance() as two:
            assert await one.set("session:1", {"stage": 3}, ttl=60)
            assert await one.get("session:1") == {"stage": 3}
            assert await two.get("session:1") == ({"stage": 3} if url else None)
            await one.delete("session:1")
            assert await one.get("session:1") is None
            await it.db.execute("drop table profiles")


async def test_redis_lost_at_run_time_and_back(database: Database, valkey: EmbeddedValkey) -> None:
    """No read fails, nothing is stale afterwards, and nobody has to do anything."""
    async with deployed(database, valkey.url) as it, it.instance() as one, it.instance() as two:
        caches = (one, two)
        for cache in caches:
            assert await cache.get_or_load(KEY, it.load) == "Ada"
        await valkey.kill()
        await eventually(lambda: not (one.attached or two.attached))
        assert [(await cache.get_stats())["status"] for cache in caches] == ["unavailable"] * 2
        await it.rename("Grace")
        for cache in caches:
            assert await cache.get_or_load(KEY, it.load, max_staleness=1) == "Grace"
            with pytest.raises(RedisUnavailable, match="did not confirm"):
                await cache.delete(KEY)
        await valkey.start()
        await eventually(lambda: one.attached and two.attached)
        for cache in caches:
            assert await cache.get_or_load(KEY, it.load) == "Grace"
        token = await it.rename("Joan")
        for cache in caches:
            await cache.wait_for(token, timeout=20)
            assert await cache.get_or_load(KEY, it.load) == "Joan"


SEED = """
import asyncio
from unstale import redis_cache


async def main():
    print(await redis_cache.get("user:1:profile"))
    await redis_cache.set("user:1:profile", {"name": "Ada"}, ttl=3600)
    await redis_cache.set("user:1:state", {"stage": 3}, ttl=60)
    print(await redis_cache.get("user:1:profile"), await redis_cache.get("user:1:state"))
    await redis_cache.delete("user:1:profile")
    print(await redis_cache.get("user:1:profile"), await redis_cache.invalidate_pattern("user:1:*"))
    stats = await redis_cache.get_stats()
    print(stats["enabled"], stats["status"], stats["follows"])


asyncio.run(main())
"""


@pytest.mark.parametrize("embedded", [True, False])
async def test_the_seeds_code_with_redis_disabled_by_the_environment(
    database: Database, tmp_path: Path, embedded: bool
) -> None:
    """A process of its own: its output is the agent's alone, and it ends by itself."""
    (tmp_path / "unstale.toml").write_text(PROFILES)
    async with deployed(database, None):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", SEED],
            cwd=tmp_path,
            env={
                **os.environ,
                "REDIS_ENABLED": "false",
                "REDIS_URL": NOWHERE,
                "DATABASE_URL": database.worker_dsn,
                "UNSTALE_EMBEDDED_WORKER": str(embedded).lower(),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "None",
        "{'name': 'Ada'} {'stage': 3}",
        "None 1",
        "False healthy outbox" if embedded else "False disabled nothing",
    ]

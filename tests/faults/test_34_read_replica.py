"""34: loaders read a standby that is behind.

Guards: `Load.connection`, which asks the standby whether it has replayed ``need_lsn`` on the very connection
that the loader will use. With the rule switched off (``obeys=False``) the same reads store what is old.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
from redis.asyncio import Redis

from faults.stage import Stage, key_of, staged
from servers import eventually, takes
from servers.proxy import Proxy
from servers.replica import pause, resume, standby_of
from unstale import Cache, Load
from unstale_worker.dev_servers import EmbeddedPostgres
from unstale_worker.sources.outbox import OutboxSource
from workers import SCHEMA, connected, running_worker, seams, state_of

USERS = 20


@dataclass
class Scene:
    """A worker, an agent and a standby; `at` counts where its loaders read."""

    stage: Stage
    redis: Redis
    agent: Cache
    standby: EmbeddedPostgres
    replica: asyncpg.Pool
    control: asyncpg.Connection
    obeys: bool = True
    primary_reads: int = 0
    replica_reads: int = 0

    async def load(self, load: Load, user: int) -> int | None:
        """The version of one row, from the standby if its agent may."""
        if not self.obeys:
            return await self._version(self.replica, user)
        async with load.connection(primary=self.stage.reader, replica=self.replica) as db:
            return await self._version(db, user)

    async def _version(self, db: asyncpg.Connection | asyncpg.Pool, user: int) -> int | None:
        if await db.fetchval("select pg_is_in_recovery()"):
            self.replica_reads += 1
        else:
            self.primary_reads += 1
        version: int | None = await db.fetchval("select version from profiles where id = $1", user)
        return version

    async def read(self, user: int) -> int | None:
        """Through the agent's cache."""

        async def loader(load: Load) -> int | None:
            return await self.load(load, user)

        version: int | None = await self.agent.get_or_load(key_of(user), loader)
        return version

    async def replica_will_do(self) -> None:
        """Until a load has read the standby."""

        async def read_there() -> bool:
            await self.redis.unlink(key_of(1))
            self.agent.inspect().local.flush()
            before = self.replica_reads
            await self.read(1)
            return self.replica_reads > before

        await eventually(read_there, message="a load reads the standby")


@asynccontextmanager
async def played(server: EmbeddedPostgres, redis_url: str, *, behind: str = "0") -> AsyncIterator[Scene]:
    """A scene whose standby has everything; ``behind`` is its `recovery_min_apply_delay`."""
    async with connected(server.dsn()) as db:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles select g, 'x', 1 from generate_series(1, $1::int) g", USERS)
    async with AsyncExitStack() as stack:
        standby = await stack.enter_async_context(standby_of(server, recovery_min_apply_delay=behind))
        stage, redis = await stack.enter_async_context(staged(server.dsn(), redis_url, schema=False))
        worker_dsn = server.dsn(user="unstale_worker")
        await stack.enter_async_context(running_worker(worker_dsn, redis_url))
        agent = await stage.open_agent()
        replica = await asyncpg.create_pool(standby.dsn(), min_size=1, max_size=4)
        stack.callback(replica.terminate)
        control = await stack.enter_async_context(connected(standby.superuser_dsn))
        yield Scene(stage, redis, agent, standby, replica, control)


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_standby_that_is_held_back_is_not_read(
    own_postgres: EmbeddedPostgres, redis_url: str, obeys: bool
) -> None:
    async with played(own_postgres, redis_url) as scene:
        await scene.replica_will_do()
        scene.obeys = obeys
        await pause(scene.control)
        await scene.stage.write(2)
        await scene.stage.applied(scene.redis)
        scene.primary_reads = scene.replica_reads = 0
        assert await scene.read(2) == (2 if obeys else 1)
        assert (scene.primary_reads, scene.replica_reads) == ((1, 0) if obeys else (0, 1))
        assert (await scene.stage.redis_values(scene.redis))[key_of(2)] == (2 if obeys else 1)
        await resume(scene.control)
        if obeys:
            await scene.replica_will_do()
            await scene.stage.settled(scene.redis)
        else:  # for good: nothing will ever remove it
            with pytest.raises(AssertionError, match="stale in Redis"):
                await scene.stage.settled(scene.redis)


@pytest.mark.parametrize("obeys", [True, False])
async def test_fills_raced_against_changes_with_a_standby_that_lags(
    own_postgres: EmbeddedPostgres, redis_url: str, obeys: bool
) -> None:
    """The standby is 100 ms behind throughout, and everybody reads what was just changed."""
    async with played(own_postgres, redis_url, behind="100ms") as scene:
        await scene.replica_will_do()
        scene.obeys = obeys

        async def write(user: int) -> None:
            for _ in range(10):
                await scene.stage.write(user)

        async def read(user: int, until: asyncio.Event) -> None:
            while not until.is_set():
                await scene.read(user)
                await takes(0.002)

        over = asyncio.Event()
        reads = [asyncio.create_task(read(user, over)) for user in range(1, USERS + 1)]
        for user in range(1, USERS + 1):
            await write(user)
        over.set()
        await asyncio.gather(*reads)
        assert scene.agent.counters().fills > 0
        if obeys:
            await scene.stage.settled(scene.redis)
            await scene.replica_will_do()
        else:
            with pytest.raises(AssertionError, match="stale in Redis"):
                await scene.stage.settled(scene.redis)


@pytest.mark.parametrize("knows", [True, False])
async def test_an_own_delete_sends_loaders_where_its_write_is(
    own_postgres: EmbeddedPostgres, redis_url: str, knows: bool
) -> None:
    """While the worker has not heard of the write; ``knows``: the caller says its WAL position."""
    async with played(own_postgres, redis_url) as scene:
        await scene.replica_will_do()
        with seams.before(OutboxSource, "read", hold=True) as point:
            await point.wait()
            await pause(scene.control)
            await scene.stage.write(3)
            lsn = await scene.stage.db.fetchval("select pg_current_wal_insert_lsn()::text")
            scene.primary_reads = scene.replica_reads = 0
            await scene.agent.delete(key_of(3), lsn=lsn if knows else None)
            assert await scene.read(3) == 2
            assert (scene.primary_reads, scene.replica_reads) == (1, 0)
            await resume(scene.control)
            point.release()
        await scene.replica_will_do()  # the worker's next watermark says up to where, if nobody else did


async def test_a_server_that_is_no_standby_of_this_database_is_not_read(
    own_postgres: EmbeddedPostgres, postgres_server: EmbeddedPostgres, redis_url: str
) -> None:
    async with played(own_postgres, redis_url) as scene:
        await scene.replica_will_do()
        ours = (await state_of(scene.redis))["database"]
        system, timeline, database_oid, outbox = map(int, ours.split(":"))
        for database, in_recovery in (
            (ours, True),
            (f"{system}:{timeline + 1}:{database_oid}:{outbox}", False),  # the primary failed over
            (f"{system + 1}:{timeline}:{database_oid}:{outbox}", False),
            (f"{system}:{timeline}:{database_oid + 1}:{outbox}", False),  # another database of that server
            (f"{system}:{timeline}:{database_oid}:{outbox + 1}", False),  # a dump was restored meanwhile
            (f"{system}:{timeline}", False),  # as older versions wrote it
            (None, False),
        ):
            load = Load("key", "0/1", primary=False, database=database)
            async with load.connection(primary=scene.stage.reader, replica=scene.replica) as db:
                assert await db.fetchval("select pg_is_in_recovery()") is in_recovery
        # Promoted: a database of its own, which goes its own way from here on, and whose WAL grows faster.
        await scene.control.execute("select pg_promote()")
        async with connected(scene.standby.dsn()) as apart:
            await apart.execute("update profiles set version = 99 where id = 4")
        assert await scene.read(4) == 1
        scene.replica = await asyncpg.create_pool(postgres_server.dsn(), min_size=1, max_size=1)
        try:
            assert await scene.read(5) == 1  # somebody else's server; it does not even have the table
        finally:
            scene.replica.terminate()


@pytest.mark.parametrize("fault", ["refuse", "half_open", "killed"])
async def test_a_replica_that_does_not_answer_costs_a_moment(
    own_postgres: EmbeddedPostgres, redis_url: str, fault: str
) -> None:
    async with played(own_postgres, redis_url) as scene:
        await scene.replica_will_do()
        async with Proxy(scene.standby.port) as proxy:
            through = await asyncpg.create_pool(proxy.url(scene.standby.dsn()), min_size=1, max_size=1)
            scene.replica = through
            try:
                await scene.replica_will_do()
                if fault == "killed":
                    await scene.standby.kill()
                elif fault == "refuse":
                    await proxy.refuse()
                    proxy.cut()
                else:
                    proxy.half_open()
                for user in (6, 7):  # on the open connection, and on a new one
                    async with asyncio.timeout(30.0):
                        assert await scene.read(user) == 1
                await proxy.heal()
                if fault != "killed":
                    await scene.replica_will_do()
            finally:
                through.terminate()

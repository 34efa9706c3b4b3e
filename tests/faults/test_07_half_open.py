"""7: half-open connections: the other side is gone and nobody says so.

Guards: PINGs on the subscription (`Subscriber._ping`), time limits on every command (`Multiplexer._batch`,
asyncpg's ``command_timeout``), and that each of them ends in a *new* connection.
"""

import asyncio
import math
import time

import pytest

from faults.stage import staged
from servers import Database, eventually
from servers.proxy import Proxy
from unstale.errors import DatabaseUnavailable
from unstale.freshness.subscriber import Subscriber
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.sources.postgres_connections import PostgresConnections
from workers import running_worker, worker_process

PATIENCE = {"max_silence": 1.0, "leader_ttl": 0.5, "redis_timeout": 0.5}


@pytest.mark.parametrize("defended", [True, False])
async def test_an_agent_notices_and_finds_a_new_connection(
    database: Database, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, quick: None, defended: bool
) -> None:
    """Only the open connections are dead: nothing but our own clock tells."""
    async with (
        Proxy(valkey.port) as proxy,
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(database.worker_dsn, valkey.url),
    ):
        cache = await stage.open_agent(proxy.url(valkey.url), **PATIENCE)
        await stage.warm()
        if not defended:

            async def mute(self: Subscriber, connection: object) -> None:
                await asyncio.Event().wait()

            monkeypatch.setattr(Subscriber, "_ping", mute)
            replays = cache.counters().replays
            proxy.cut()  # so that the subscription has no PINGs
            await eventually(lambda: cache.counters().replays > replays and cache.attached)
            await eventually(lambda: proxy.connections > 0)
        proxy.half_open(new=False)
        await stage.write(1)
        if defended:
            await eventually(lambda: not cache.attached)
            assert cache.staleness == math.inf
            await eventually(lambda: cache.attached)
            assert await stage.read(1) == 2
            await stage.settled(redis)
        else:
            await eventually(lambda: not cache.attached)
            with pytest.raises(AssertionError):
                await eventually(lambda: cache.attached, timeout=2)


async def test_a_dead_network_costs_an_agent_little_and_never_a_stale_answer(
    database: Database, valkey: EmbeddedValkey, quick: None
) -> None:
    """New connections are swallowed as well. Once that is known, no read waits for Redis any more."""
    async with (
        Proxy(valkey.port) as proxy,
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(database.worker_dsn, valkey.url),
    ):
        cache = await stage.open_agent(proxy.url(valkey.url), **PATIENCE, detached_ttl=1.0)
        await stage.warm()
        proxy.half_open()
        await eventually(lambda: not cache.attached)
        await stage.write(1)
        assert await stage.read(1) == 2
        await eventually(lambda: cache.inspect().freshness.trust.value == "detached")
        longest = 0.0
        for user in range(2, 20):
            await stage.write(user)
            begun = time.monotonic()
            assert await stage.read(user) == 2
            longest = max(longest, time.monotonic() - begun)
        assert longest < PATIENCE["redis_timeout"]  # far below: nobody waited for a timeout
        await proxy.heal()
        await eventually(lambda: cache.attached, timeout=10)
        await stage.settled(redis)


async def test_a_leader_cut_off_from_redis_is_followed_by_another(
    database: Database, valkey: EmbeddedValkey
) -> None:
    async with (
        Proxy(valkey.port) as proxy,
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(database.worker_dsn, proxy.url(valkey.url), leader_ttl=0.5, redis_timeout=0.5) as old,
    ):
        await stage.open_agent()
        await stage.warm()
        proxy.half_open()
        with worker_process(database.worker_dsn, valkey.url, UNSTALE_LEADER_TTL="0.5"):
            await stage.write(1)
            await stage.settled(redis)
            await eventually(lambda: not old.status().redis)
            await proxy.heal()
            await eventually(lambda: old.status().role.value == "standby" and old.status().redis)
            await stage.write(2)
            await stage.settled(redis)


async def test_a_leader_notices_that_its_database_connections_are_dead(
    database: Database, valkey: EmbeddedValkey
) -> None:
    """Both the source's and the listening session; new ones work at once."""
    port = int(database.dsn.rpartition(":")[2].partition("/")[0])
    async with (
        Proxy(port) as proxy,
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(proxy.url(database.worker_dsn), valkey.url, database_timeout=0.5) as worker,
    ):
        await stage.open_agent()
        await stage.warm()
        proxy.half_open(new=False)
        await stage.write(1)
        await stage.applied(redis, timeout=60)
        await stage.settled(redis)
        await eventually(lambda: worker.status().ready)
        await stage.write(2)
        await stage.settled(redis)


async def test_an_opening_that_is_given_up_at_any_moment_leaves_no_session(database: Database) -> None:
    """Guards: `PostgresConnections.open` ends what it began; the fixture looks for leftover sessions."""
    port = int(database.dsn.rpartition(":")[2].partition("/")[0])
    async with Proxy(port) as proxy:
        connections = PostgresConnections(proxy.url(database.worker_dsn))
        proxy.slow(0.005)
        opened = 0
        for moment in range(1, 60):
            try:
                async with asyncio.timeout(moment * 0.002):
                    connection = await connections.open()
            except (TimeoutError, DatabaseUnavailable):
                continue
            opened += 1
            await connection.close()
        assert opened < 59

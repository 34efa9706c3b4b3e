"""27: a Redis Cluster, whose nodes fail over and whose slots move.

Guards: every new connection asks the nodes who serves the slot (`ClusterNodes`); ``MOVED`` and
``CLUSTERDOWN`` end a connection; ``ASK`` and ``TRYAGAIN`` are followed nowhere, so no process stores beside
the state; a pattern is applied only if its slot stayed where it was (`SlotWatch`). Run and epoch do the rest,
as after any failover.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError

from faults.stage import USERS, Stage, key_of, staged
from servers import Database, eventually, run_apart
from servers.clusters import NAMES, SLOT, Cluster, start_cluster
from unstale import Cache, RedisUnavailable
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import Multiplexer
from unstale_worker.leader.supervisor import Worker
from workers import redis_at, running_worker, state_of
from workers.refresh_stage import spend_budgets


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    """A cluster for all tests of this file: it takes seconds to join.

    With ``UNSTALE_TEST_PROGRAM=redis`` in the environment it is one of Redis.
    """
    redis = os.environ.get("UNSTALE_TEST_PROGRAM") == "redis"
    nodes = run_apart(start_cluster(program="redis" if redis else "valkey"))
    try:
        yield nodes
    finally:
        run_apart(nodes.close())


@pytest.fixture
async def nodes(running: Cluster) -> Cluster:
    """The cluster, whole and empty."""
    await running.repaired()
    return running


@asynccontextmanager
async def followed(database: Database, nodes: Cluster) -> AsyncIterator[tuple[Stage, Worker]]:
    """A worker and two agents that hold every row."""
    owner = await nodes.owner()
    async with (
        staged(database.dsn, owner.url, names=NAMES) as (stage, _),
        running_worker(database.worker_dsn, nodes.url) as worker,
    ):
        for _ in range(2):
            await stage.open_agent(nodes.url)
        await stage.warm()
        yield stage, worker


async def test_budgets_hold(nodes: Cluster) -> None:
    """All processes count in one slot."""
    async with redis_at((await nodes.owner()).url) as redis:
        await spend_budgets(nodes.url, redis, NAMES)


async def settled(stage: Stage, nodes: Cluster) -> None:
    """Nothing is stale at the node that has the slot, nor in an agent; and both agents read it there."""
    async with redis_at((await nodes.owner()).url) as redis:
        await stage.settled(redis)
        truth = await stage.truth()
        await stage.warm()
        assert await stage.redis_values(redis) == truth


@pytest.mark.parametrize(
    "how", ["killed", "killed after it lost its replica", "paused, and it wakes up", "CLUSTER FAILOVER"]
)
async def test_worker_and_agents_follow_a_failover(
    database: Database, nodes: Cluster, quick: None, how: str
) -> None:
    """What the old primary acknowledged last may be missing at the new one; it is applied again."""
    old = await nodes.owner()
    replica = nodes.replica_of(old)
    async with followed(database, nodes) as (stage, worker), redis_at(old.url) as before:
        await stage.write(1)
        await stage.settled(before)
        epoch = (await state_of(before, NAMES))["epoch"]
        if how == "killed after it lost its replica":
            await nodes.ask(replica, "CONFIG", "SET", "masterauth", "another")
            await before.execute_command("CLIENT", "KILL", "TYPE", "replica")
            await stage.write(1)
            await stage.settled(before)  # and the replica knows nothing of it
        if how == "CLUSTER FAILOVER":
            await nodes.ask(replica, "CLUSTER", "FAILOVER")
        elif how.startswith("killed"):
            await old.kill()
        else:
            os.kill(old.pid, signal.SIGSTOP)
        await stage.write(2)

        async def promoted() -> bool:
            return await nodes.named(replica, SLOT) == replica.port

        try:
            await eventually(promoted, message="the replica is the primary")
        finally:
            if how.startswith("paused"):
                os.kill(old.pid, signal.SIGCONT)  # for a moment it takes itself for the primary
        await stage.write(3)
        await settled(stage, nodes)
        async with redis_at(replica.url) as redis:
            assert (await state_of(redis, NAMES))["epoch"] != epoch
        assert worker.status().counters.epochs >= 2  # the first, and the one after the failover


async def test_a_slot_moves_with_all_it_has_at_once(
    database: Database, nodes: Cluster, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Valkey 9 moves slots in one step, so nothing but the address changes."""
    target = await nodes.other()
    async with followed(database, nodes) as (stage, _):
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_write_until(stop, stage))
            try:
                await nodes.move(await nodes.owner(), target)
            finally:
                stop.set()
        await stage.write(1)
        await settled(stage, nodes)
    assert "this node does not serve the channel any more" in caplog.text  # so nobody waits for silence


async def test_a_connection_leaves_a_node_that_names_another(nodes: Cluster) -> None:
    """``MOVED``: the command fails, and the next connection leads to the node that has the slot."""
    multiplexer = Multiplexer(Connections(nodes.url, timeout=20), timeout=20, clock=time.monotonic)
    owner, other = await nodes.owner(), await nodes.other()

    async def served() -> bool:
        try:
            return await multiplexer.get(NAMES.stored("a")) == b"1"
        except RedisUnavailable:
            return False

    try:
        await multiplexer.execute_command("SET", NAMES.stored("a"), "1", "PX", 60_000)
        await nodes.move(owner, other)
        await eventually(served, message="the key is read at the other node")
        assert multiplexer.breaks == 1
    finally:
        await multiplexer.close()


async def test_a_slot_that_comes_back_brings_no_history_back(
    database: Database, nodes: Cluster, quick: None
) -> None:
    """Guards: `live_epoch`. Otherwise the epoch of the first node goes on, without what was deleted."""
    owner, other = await nodes.owner(), await nodes.other()
    async with followed(database, nodes) as (stage, _), redis_at(owner.url) as redis:
        run = (await state_of(redis, NAMES))["run"]
    async with staged(database.dsn, owner.url, schema=False, names=NAMES) as (stage, _):
        cache = await stage.open_cache(nodes.url)
        await nodes.move(owner, other)
        await eventually(lambda: _deleted(cache, key_of(1)))  # there: no worker began an epoch
        await nodes.move(other, owner)
        async with redis_at(owner.url) as redis:
            assert (await redis.info("replication"))["master_replid"] == run
            assert (await state_of(redis, NAMES))["run"] != run


async def test_a_slot_moves_key_by_key(database: Database, nodes: Cluster, quick: None) -> None:
    """Guards: no redirection of one command is followed, and `SlotWatch`.

    Half-way a key is at one node and the state at the other. A change of the key cannot be applied there, a
    pattern would miss the key, and a reader loads for itself.
    """
    owner, target = await nodes.owner(), await nodes.other()
    async with followed(database, nodes) as (stage, worker), redis_at(owner.url) as source:
        cache, key = stage.agents[0], key_of(1)
        await stage.write(2)  # state and log stand at the source, so a pattern can be announced
        await stage.settled(source)
        await stage.warm()
        await nodes.begin_move(owner, target)
        await nodes.move_keys(owner, target, [NAMES.stored(key)])
        with pytest.raises(AskError):
            await source.get(NAMES.stored(key))
        with pytest.raises(TryAgainError):
            await source.mget(NAMES.state, NAMES.stored(key))
        refreshes = worker.status().counters.keys

        with pytest.raises(RedisUnavailable):
            await cache.delete(key)
        with pytest.raises(RedisUnavailable, match="a pattern is applied once all are there"):
            await cache.invalidate_pattern("user:*:profile")
        version = await stage.write(1)
        assert await stage.read(1) == version  # its copy is gone, and nothing was stored
        async with redis_at(target.url) as there:
            assert await _asking(there, "GET", NAMES.stored(key)) == b"1"
        await stage.db.execute("truncate public.profiles")
        await stage.db.execute(
            "insert into profiles select g, 'x', 7 from generate_series(1, $1::int) g", USERS
        )
        assert worker.status().counters.keys == refreshes  # a change is applied as a whole or not at all
        assert len(await stage.redis_values(source)) >= USERS - 2

        await nodes.end_move(owner, target)
        with pytest.raises(MovedError):
            await source.get(NAMES.stored(key))
        await settled(stage, nodes)
        assert await stage.read(1) == 7


async def test_a_slot_that_no_node_serves(database: Database, nodes: Cluster, quick: None) -> None:
    """``CLUSTERDOWN``: readers load for themselves, and a change waits until a node has the slot."""
    owner = await nodes.owner()
    async with followed(database, nodes) as (stage, _), redis_at(owner.url) as redis:
        await redis.execute_command("CLUSTER", "DELSLOTS", SLOT)
        with pytest.raises(ResponseError, match=r"Hash slot not served|CLUSTERDOWN|is down"):
            await redis.get(NAMES.state)
        version = await stage.write(1)
        with pytest.raises(RedisUnavailable):
            await stage.agents[0].delete(key_of(1))
        assert await stage.read(1) == version
        await redis.execute_command("CLUSTER", "ADDSLOTS", SLOT)
        await settled(stage, nodes)


async def _deleted(cache: Cache, key: str) -> bool:
    try:
        await cache.delete(key)
    except RedisUnavailable:  # still at the node that was left
        return False
    return True


async def _write_until(stop: asyncio.Event, stage: Stage) -> None:
    while not stop.is_set():
        await stage.write(2)


async def _asking(redis: Redis, *words: str) -> object:
    """Send a command to the node that a slot moves to."""
    async with redis.client() as connection:
        await connection.execute_command("ASKING")
        return await connection.execute_command(*words)

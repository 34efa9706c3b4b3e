"""47: a server that does not tell its run id, as many rented ones do not: INFO and CONFIG are refused.

Guards: `Stamps` (a script of the worker requires the stamp of the one before it), a new epoch whenever a
worker reads the state anew, ids that an agent's own log entry skips, and a near cache that is dropped at a
reconnect.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from structlog.testing import capture_logs

from faults.promotions import caught_up, cut_off, settle_in_new_epoch
from faults.stage import key_of, staged
from servers import Database, eventually
from servers.hiding_proxy import HidingProxy
from servers.proxy import Proxy
from unstale.protocol.messages import Invalidation
from unstale_worker.dev_servers import EmbeddedValkey
from workers import Listener, logged, redis_at, running_worker, state_of
from workers.refresh_stage import NAMES, spend_budgets

Pair = tuple[EmbeddedValkey, EmbeddedValkey]


@pytest.fixture
async def rented() -> AsyncIterator[Pair]:
    """A primary and its replica, both with a restricted user."""
    async with (
        EmbeddedValkey(restricted=True) as primary,
        EmbeddedValkey(replica_of=primary, restricted=True) as replica,
    ):
        async with redis_at(replica.url) as client:

            async def in_sync() -> bool:
                return (await client.info("replication")).get("master_link_status") == "up"

            await eventually(in_sync)
        yield primary, replica


def url_of(server: EmbeddedValkey, tier: str) -> str:
    """The URL of a user for whom the server is of this tier."""
    return server.restricted_url if tier == "no-run-id" else server.url


async def test_budgets_hold() -> None:
    async with EmbeddedValkey(restricted=True) as server, redis_at(server.url) as redis:
        await spend_budgets(server.restricted_url, redis, NAMES)


CASES = [("no-run-id", True), ("no-run-id", False), ("single", True)]  # single, seen: test_09_failover.py


@pytest.mark.parametrize(("tier", "hidden"), CASES)
async def test_a_failover_that_loses_writes_of_the_worker_is_noticed(
    database: Database, rented: Pair, hidden: bool, tier: str
) -> None:
    """Hidden: no connection breaks. The stamp went back with the writes, so the next script is refused."""
    primary, replica = rented
    server = url_of(primary, tier)
    async with AsyncExitStack() as stack:
        hiding = await stack.enter_async_context(HidingProxy(primary.port, server))
        plain = await stack.enter_async_context(Proxy(primary.port))
        url = hiding.url if hidden else plain.url(server)
        # The test's own client is an administrator, and is told of the failover.
        stage, redis = await stack.enter_async_context(staged(database.dsn, plain.url(primary.url)))
        stage.redis_url = url
        worker = await stack.enter_async_context(running_worker(database.worker_dsn, url))
        for _ in range(2):
            await stage.open_agent()
        await stage.warm()
        before = (await state_of(redis))["epoch"]
        await caught_up(redis, replica)
        async with cut_off(replica) as client:
            for user in (1, 2, 3):
                await stage.write(user)
            await stage.settled(redis)
            await stage.warm()
            connections = hiding.accepted
            await hiding.hold()
            await client.execute_command("REPLICAOF", "NO", "ONE")
        plain.target = replica.port
        plain.cut()
        await hiding.switch(replica.port)
        await stage.write(4)
        await settle_in_new_epoch(stage, redis, before)
        await stage.warm()
        await stage.settled(redis)
        assert worker.status().redis_tier == tier
        if hidden:
            assert worker.status().counters.epochs >= 2  # at the start, and by the stamp
            assert connections >= 4


@pytest.mark.parametrize("tier", ["no-run-id", "single"])
async def test_a_script_of_a_batch_that_was_lost_is_not_covered_by_the_position(
    database: Database, rented: Pair, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    """The failover takes back a batch's first scripts, before the one that stores the position."""
    primary, replica = rented
    async with (
        HidingProxy(primary.port, url_of(primary, tier)) as proxy,
        staged(database.dsn, primary.url) as (stage, redis),
        redis_at(replica.url) as client,
    ):
        stage.redis_url = proxy.url
        lost = asyncio.Event()

        async def failover(point: str) -> None:
            if point == "applier.before_last_script" and not lost.is_set():
                lost.set()
                await proxy.hold()
                await client.execute_command("REPLICAOF", "NO", "ONE")
                await proxy.switch(replica.port)

        async with running_worker(database.worker_dsn, proxy.url, script_keys=1):
            await stage.open_agent()
            await stage.warm()
            await caught_up(redis, replica)
            await client.execute_command("REPLICAOF", "127.0.0.1", "1")
            monkeypatch.setattr("unstale.runtime.failpoints.on", True)
            monkeypatch.setattr("unstale.runtime.failpoints.reach", failover)
            await stage.db.execute("update profiles set version = version + 1 where id in (1, 2, 3)")
            await eventually(lost.is_set)
            await stage.settled(client)


async def test_a_lost_id_does_not_come_again(database: Database, rented: Pair) -> None:
    """An agent's delete skips ids; the others hear it without a gap, as it names the id before it."""
    primary, _ = rented
    url = primary.restricted_url
    async with staged(database.dsn, primary.url) as (stage, redis), running_worker(database.worker_dsn, url):
        stage.redis_url = url
        deleter, other = await stage.open_agent(), await stage.open_agent()
        await stage.warm()
        last = int((await state_of(redis))["last"])
        replays = other.inspect().following.replays
        async with Listener(primary.url) as heard:
            await deleter.delete(key_of(1))
            await heard.caught_up(redis)
        (message,) = [message for message in heard.messages if isinstance(message, Invalidation)]
        assert message.prev == last
        assert message.id > last + 1
        assert (await logged(redis))[-1][0] == f"{message.id}-0".encode()
        await eventually(lambda: other.inspect().freshness.last == message.id)
        assert other.inspect().following.replays == replays
        await stage.settled(redis)


async def test_a_reconnect_drops_the_near_cache_and_a_new_worker_begins_an_epoch(
    database: Database, rented: Pair
) -> None:
    """Neither can know if it meets the server of before. Both are said, in the log and in the status."""
    primary, _ = rented
    async with (
        Proxy(primary.port) as proxy,
        staged(database.dsn, primary.url) as (stage, redis),
    ):
        url = primary.restricted_url
        with capture_logs() as logs:
            async with running_worker(database.worker_dsn, url) as worker:
                cache = await stage.open_agent(proxy.url(url))
                await stage.warm()
                epoch = (await state_of(redis))["epoch"]
                assert len(cache.inspect().local.near)
                proxy.cut()
                await eventually(lambda: not cache.attached)
                await eventually(lambda: cache.attached)
                assert not len(cache.inspect().local.near)
                assert (await state_of(redis))["epoch"] == epoch  # the worker's connection did not break
                assert worker.status().redis_tier == "no-run-id"
                stats = await cache.get_stats()
                assert stats["connected"]
                assert stats["redis_memory"] is None
        said = [entry for entry in logs if entry["event"] == "Redis does not tell its run id"]
        assert len(said) == 1
        async with running_worker(database.worker_dsn, url):
            assert (await state_of(redis))["epoch"] != epoch

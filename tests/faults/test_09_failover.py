"""9: a Redis failover loses acknowledged writes: the replica that is promoted never saw them.

Guards: the position goes back together with the effects (same script, same server), so the changes are
applied again; ``run`` in the state against the live ``master_replid`` (`Standing.OTHER_RUN`)
makes a new epoch, on which agents drop what they hold. Clients reach the servers through a proxy, as
through a DNS name that moves.
"""

from contextlib import AsyncExitStack

import pytest

from faults.promotions import caught_up, cut_off, settle_in_new_epoch
from faults.stage import staged
from servers import Database, eventually
from servers.proxy import Proxy
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import StoredState
from workers import redis_at, running_worker, state_of


@pytest.mark.parametrize("worker_restarts", [False, True])
async def test_writes_that_the_promoted_replica_never_saw_are_applied_again(
    database: Database, pair: tuple[EmbeddedValkey, EmbeddedValkey], worker_restarts: bool
) -> None:
    """A worker that was not there when it happened sees it as well: what it compares lies in Redis."""
    primary, replica = pair
    async with Proxy(primary.port) as proxy, AsyncExitStack() as workers:
        url = proxy.url(primary.url)
        async with staged(database.dsn, url) as (stage, redis):
            await workers.enter_async_context(running_worker(database.worker_dsn, url))
            for _ in range(2):
                await stage.open_agent()
            await stage.warm()
            before = (await state_of(redis))["epoch"]
            await caught_up(redis, replica)
            async with cut_off(replica) as client:
                # Acknowledged: values removed, positions stored, agents told, new values filled.
                for user in (1, 2, 3):
                    await stage.write(user)
                await stage.settled(redis)
                await stage.warm()
                if worker_restarts:
                    await workers.aclose()
                await primary.kill()
                await client.execute_command("REPLICAOF", "NO", "ONE")
            proxy.target = replica.port
            proxy.cut()
            await stage.write(4)
            if worker_restarts:
                await workers.enter_async_context(running_worker(database.worker_dsn, url))
            await settle_in_new_epoch(stage, redis, before)
            await stage.warm()
            await stage.settled(redis)
            await workers.aclose()


@pytest.mark.parametrize("defended", [True, False])
async def test_an_id_that_comes_again_is_told_apart_by_the_epoch(
    database: Database,
    pair: tuple[EmbeddedValkey, EmbeddedValkey],
    monkeypatch: pytest.MonkeyPatch,
    defended: bool,
) -> None:
    """The agent heard id n of the lost history, was away, and comes back to another id n (model H1)."""
    primary, replica = pair
    async with Proxy(primary.port) as proxy, Proxy(primary.port) as agents_proxy:
        url = proxy.url(primary.url)
        async with staged(database.dsn, url) as (stage, redis), running_worker(database.worker_dsn, url):
            cache = await stage.open_agent(agents_proxy.url(primary.url))
            await stage.warm()
            await caught_up(redis, replica)
            async with cut_off(replica) as client:
                await stage.write(1)
                await stage.settled(redis)
                heard = cache.inspect().freshness.last

                if not defended:

                    async def same_epoch(self: Applier, state: StoredState, **_: object) -> None:
                        await redis.hset("{unstale:0}:state", "run", state.live_run)

                    monkeypatch.setattr(Applier, "new_epoch", same_epoch)
                await agents_proxy.refuse()
                agents_proxy.cut()
                await primary.kill()
                await stage.write(2)
                await client.execute_command("REPLICAOF", "NO", "ONE")
            proxy.target = agents_proxy.target = replica.port
            proxy.cut()
            await stage.applied(redis)
            assert int((await state_of(redis))["last"]) == heard  # both changes in one batch: the same id
            await agents_proxy.heal()
            await eventually(lambda: cache.attached)
            assert await stage.read(2) == (2 if defended else 1)


async def test_a_primary_that_is_demoted_while_connections_to_it_stay(
    database: Database, pair: tuple[EmbeddedValkey, EmbeddedValkey]
) -> None:
    """Nobody cuts anything: the old server answers READONLY, and only a new connection finds the new one."""
    primary, replica = pair
    async with Proxy(primary.port) as proxy:
        url = proxy.url(primary.url)
        async with staged(database.dsn, url) as (stage, redis), running_worker(database.worker_dsn, url):
            await stage.open_agent()
            await stage.warm()
            before = (await state_of(redis))["epoch"]
            await caught_up(redis, replica)
            proxy.target = replica.port
            async with redis_at(replica.url) as new, redis_at(primary.url) as old:
                await new.execute_command("REPLICAOF", "NO", "ONE")
                await old.execute_command("REPLICAOF", "127.0.0.1", str(replica.port))
            await redis.connection_pool.disconnect()
            for user in (1, 2, 3):
                await stage.write(user)
            await settle_in_new_epoch(stage, redis, before)
            await stage.warm()
            await stage.settled(redis)


@pytest.mark.parametrize("connections", ["subscription cut", "worker cut", "all stay"])
async def test_an_old_primary_that_lives_on_apart_is_left(
    database: Database,
    pair: tuple[EmbeddedValkey, EmbeddedValkey],
    monkeypatch: pytest.MonkeyPatch,
    quick: None,
    connections: str,
) -> None:
    """The name leads to the promoted replica; the old server goes on answering whoever is connected to it.

    Guards: `Leadership` and `Subscriber` look at the address again, the one now and then, the other when no
    watermark comes; and `Multiplexer.renew`: whoever follows another server's log also reads there.
    """
    monkeypatch.setattr("unstale_worker.leader.leadership.RECONNECT_EVERY", 0.1)
    primary, replica = pair
    async with Proxy(primary.port) as proxy, Proxy(primary.port) as agents_proxy:
        url = proxy.url(primary.url)
        async with staged(database.dsn, url) as (stage, redis), running_worker(database.worker_dsn, url):
            cache = await stage.open_agent(agents_proxy.url(primary.url), max_silence=3.0, leader_ttl=0.5)
            await stage.warm()
            before = (await state_of(redis))["epoch"]
            await caught_up(redis, replica)
            agents_proxy.target = proxy.target = replica.port
            async with redis_at(replica.url) as new, redis_at(primary.url) as old:
                await new.execute_command("REPLICAOF", "NO", "ONE")
                if connections == "worker cut":
                    proxy.cut()
                if connections == "subscription cut":
                    assert await old.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
            for user in (1, 2, 3):
                await stage.write(user)
            await redis.connection_pool.disconnect()
            await settle_in_new_epoch(stage, redis, before)
            await eventually(lambda: cache.attached)
            for user in (1, 2, 3):
                assert await stage.read(user) == 2
            await stage.settled(redis)


async def test_a_subscription_does_not_stay_on_a_demoted_server(
    database: Database, pair: tuple[EmbeddedValkey, EmbeddedValkey]
) -> None:
    """It would hear everything late, by replication, while PINGs are answered at once: the bound would lie.

    Guards: `Moved` in `Subscriber`: the new epoch is a reason for a new connection, which asks for the role.
    """
    primary, replica = pair
    async with Proxy(primary.port) as proxy, Proxy(primary.port) as agents_proxy:
        url = proxy.url(primary.url)
        async with staged(database.dsn, url) as (stage, redis), running_worker(database.worker_dsn, url):
            cache = await stage.open_agent(agents_proxy.url(primary.url))
            await stage.warm()
            before = (await state_of(redis))["epoch"]
            await caught_up(redis, replica)
            proxy.target = agents_proxy.target = replica.port
            async with redis_at(replica.url) as new, redis_at(primary.url) as old:
                await new.execute_command("REPLICAOF", "NO", "ONE")
                await old.execute_command("REPLICAOF", "127.0.0.1", str(replica.port))
                proxy.cut()
                await settle_in_new_epoch(stage, redis, before)

                async def left() -> bool:
                    return not await old.client_list("pubsub")

                await eventually(left, message="nobody listens to the demoted server")
            await stage.write(1)
            await eventually(lambda: cache.attached)
            await stage.settled(redis)
            assert await stage.read(1) == 2

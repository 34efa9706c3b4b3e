"""21: Redis is slow, out of memory, or read-only: the position is kept, retries are bounded, readiness is
red.

Guards: scripts with ``flags=allow-oom`` (`unstale.redis_tier.scripts.HEADER`), `Backoff`, `Status.ready`
(lag), and that agents answer from their loaders meanwhile.
"""

import asyncio
import hashlib

import pytest

from faults.stage import staged
from servers import Database, eventually
from servers.proxy import Proxy
from unstale.redis_tier import scripts
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.redis import applier
from workers import redis_at, running_worker, state_of


@pytest.mark.parametrize("defended", [True, False])
async def test_out_of_memory_refuses_no_invalidation(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Values cannot be stored, invalidations and positions can: they only free memory."""
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url) as worker,
    ):
        cache = await stage.open_agent()
        await stage.warm()
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("maxmemory", 1)
        if not defended:
            strict(monkeypatch)
        await stage.write(1)
        if defended:
            await stage.settled(redis)
            assert await stage.read(1) == 2
            assert await stage.read(1) == 2
            assert cache.attached
        else:
            await eventually(lambda: "maxmemory" in worker.status().problem)
        await redis.config_set("maxmemory", 0)
        await stage.settled(redis)


def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the applier's script be refused when memory is short."""
    script = applier.APPLY
    text = script.text.replace(scripts.HEADER, "#!lua\n")
    assert text != script.text
    monkeypatch.setattr(script, "text", text)
    monkeypatch.setattr(script, "sha", hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


async def test_read_only_keeps_the_position_and_says_so(database: Database, redis_url: str) -> None:
    """A primary that became a replica of nobody in reach, as in the middle of a failover."""
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url) as worker,
    ):
        await stage.open_agent(max_silence=2.5)
        await stage.warm()
        await stage.applied(redis)
        before = (await state_of(redis))["position"]
        async with redis_at(redis_url) as operator:
            await operator.execute_command("REPLICAOF", "127.0.0.1", "1")
            await stage.write(1)
            await eventually(lambda: not worker.status().redis)
            await asyncio.gather(*(stage.read(user) for user in range(1, 10)))
            assert (await state_of(redis))["position"] == before
            await operator.execute_command("REPLICAOF", "NO", "ONE")
        await stage.settled(redis)
        assert await stage.read(1) == 2
        await stage.settled(redis)


async def test_slow_is_not_dead(database: Database, valkey: EmbeddedValkey) -> None:
    """A fifth of a second a round trip: slower, and never stale."""
    async with (
        Proxy(valkey.port) as proxy,
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(database.worker_dsn, proxy.url(valkey.url)),
    ):
        await stage.open_agent()
        await stage.warm()
        proxy.slow(0.1)
        for user in (1, 2, 3):
            await stage.write(user)
        await stage.settled(redis)
        assert await stage.read(1) == 2
        await proxy.heal()


async def test_stuck_turns_readiness_red_and_retries_are_bounded(
    database: Database, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing gets through: lag grows, readiness goes, and the attempts do not add up to a storm."""
    monkeypatch.setattr("unstale_worker.observe.status.READY_LAG", 1.0)  # ten seconds otherwise
    async with (
        Proxy(valkey.port) as proxy,
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(database.worker_dsn, proxy.url(valkey.url), redis_timeout=0.2) as worker,
    ):
        await stage.open_agent()
        await stage.warm()
        proxy.hold()
        await stage.write(1)
        accepted = proxy.accepted
        await eventually(lambda: not worker.status().ready)
        await eventually(lambda: not worker.status().redis)
        assert proxy.accepted - accepted < 30
        await proxy.heal()
        await stage.settled(redis)
        await eventually(lambda: worker.status().ready)


async def test_keys_of_other_types_stop_nothing_for_good(database: Database, redis_url: str) -> None:
    """Somebody wrote a string over the log, a list over the state: it is said, and mended by deleting it."""
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url) as worker,
    ):
        await stage.open_agent()
        await stage.warm()
        for name in ("log", "state"):
            await redis.delete(f"{{unstale:0}}:{name}")
            await redis.rpush(f"{{unstale:0}}:{name}", "not ours")
            await stage.write(1)
            await eventually(lambda: worker.status().problem)
            await redis.delete(f"{{unstale:0}}:{name}")
            await stage.settled(redis)
            await stage.warm()
            await stage.settled(redis)

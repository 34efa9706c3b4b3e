"""11: the script ran and its answer was lost: the worker cannot know, and starts again by reading the
state.

Guards: every script requires the position that was read with it (`refusal` in ``_common.lua``), so what
ran already is refused or repeated as a whole, never half; an agent's fill or invalidation whose answer
was lost is safe either way.
"""

from contextlib import nullcontext

import pytest

from faults.stage import key_of, staged
from servers import Database, eventually
from servers.proxy import Proxy
from unstale import Cache, RedisUnavailable
from unstale.redis_tier.scripts import Script
from unstale.redis_tier.tier import RedisTier
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.leader.leadership import ACQUIRE, RENEW
from unstale_worker.redis.applier import APPLY, NEW_EPOCH, RECOVER, STATE, WATERMARK
from workers import running_worker

DIRECT, REPLAY = (Script("unstale.redis_tier", name) for name in ("direct", "replay"))
FILL = Script("unstale.redis_tier", "fill", allow_oom=False)


@pytest.mark.parametrize(
    "script", [APPLY, WATERMARK, STATE, RENEW, ACQUIRE, RECOVER, NEW_EPOCH], ids=lambda s: s.name
)
async def test_the_worker_did_it_and_does_not_know(
    database: Database, valkey: EmbeddedValkey, script: Script
) -> None:
    async with (
        Proxy(valkey.port) as proxy,
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(database.worker_dsn, proxy.url(valkey.url), watermark_interval=0.05),
    ):
        await stage.open_agent()
        await stage.warm()
        proxy.lose_answer(script.sha.encode())
        if script in (RECOVER, STATE):
            await redis.hdel("{unstale:0}:state", "position")
        elif script is NEW_EPOCH:
            await redis.hset("{unstale:0}:state", "run", "f" * 40)
        elif script is ACQUIRE:
            await redis.delete("{unstale:0}:leader")
        for user in (1, 2, 3):
            await stage.write(user)
        await eventually(proxy.lost.is_set)
        await stage.settled(redis)
        assert await stage.read(3) == 2


async def test_a_read_of_the_outbox_whose_answer_is_lost(database: Database, redis_url: str) -> None:
    """It is read again from the same position."""
    port = int(database.dsn.rpartition(":")[2].partition("/")[0])
    async with (
        Proxy(port) as proxy,
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(proxy.url(database.worker_dsn), redis_url) as worker,
    ):
        proxy.lose_answer(b"")
        await stage.write(1)
        await eventually(proxy.lost.is_set)
        await stage.settled(redis)
        assert worker.status().counters.recoveries == 1  # the first start's; nothing had to be dropped


@pytest.mark.parametrize("script", [FILL, DIRECT, REPLAY], ids=lambda s: s.name)
async def test_the_agent_did_it_and_does_not_know(
    database: Database, valkey: EmbeddedValkey, script: Script
) -> None:
    async with (
        Proxy(valkey.port) as proxy,
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(database.worker_dsn, valkey.url),
    ):
        cache = await stage.open_agent(proxy.url(valkey.url))
        other: Cache = await stage.open_agent()
        assert await stage.read(1) == 1
        proxy.lose_answer(script.sha.encode())
        if script is FILL:
            assert await stage.read(2) == 1
        elif script is DIRECT:
            await cache.delete(key_of(1))
        else:
            await redis.hincrby("{unstale:0}:state", "last", 1)  # a gap, which the next watermark shows
        await eventually(proxy.lost.is_set)
        for user in (1, 2):
            await stage.write(user)
        await eventually(lambda: cache.attached and other.attached)
        await stage.settled(redis)
        assert [await stage.read(user, agent) for user in (1, 2) for agent in (0, 1)] == [2, 2, 2, 2]


@pytest.mark.parametrize("defended", [True, False])
async def test_an_invalidation_that_never_arrived_is_not_taken_for_done(
    database: Database, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """A direct invalidation raises when Redis did not confirm; the local copy is gone anyway."""
    if not defended:

        async def believes(self: RedisTier, keys: object = (), **more: object) -> int:
            return 1

        monkeypatch.setattr(RedisTier, "invalidate", believes)
    async with (
        Proxy(valkey.port) as proxy,
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(database.worker_dsn, valkey.url),
    ):
        cache = await stage.open_agent(proxy.url(valkey.url))
        assert await stage.read(1) == 1
        await proxy.refuse()
        proxy.cut()
        with pytest.raises(RedisUnavailable, match="did not confirm") if defended else nullcontext():
            await cache.delete(key_of(1))
        assert len(cache.inspect().local.near) == 0
        await proxy.heal()
        await stage.settled(redis)

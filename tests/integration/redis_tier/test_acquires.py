"""Value or lease of one key or many: a batch that Redis refuses, and callers that are cancelled."""

import asyncio
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import pytest
from redis.asyncio import Redis

from servers import eventually
from unstale.protocol.codec import is_soft_lease
from unstale.protocol.lease import ValueOrLease
from unstale.protocol.names import Names
from unstale.redis_tier.acquires import AcquireBatch, Acquires
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.tier import RedisTier
from unstale.runtime import clock
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble

KEY = "user:42:profile"


@pytest.fixture
async def tier(valkey: EmbeddedValkey) -> AsyncIterator[RedisTier]:
    connections = Connections(valkey.url, timeout=1.0)
    tier = RedisTier(connections, Names(), timeout=1.0, log_max_bytes=1 << 20, clock=clock.now)
    yield tier
    await tier.close()


async def acquire(tier: RedisTier, *keys: str, soft: bool = False) -> list[ValueOrLease]:
    """In one batch, as the reads of one moment are."""
    return await asyncio.gather(*(tier.acquire(key, soft=soft, seconds=60) for key in keys))


@pytest.fixture(params=["few replicas", "out of memory"])
async def reading_only(request: pytest.FixtureRequest, silent: WorkerDouble) -> AsyncIterator[Redis]:
    """A Redis that answers reads and refuses what stores; ``user:1`` holds a value."""
    redis = silent.redis
    await redis.set("user:1", b"1", ex=60)
    few = request.param == "few replicas"
    name, value = ("min-replicas-to-write", 1) if few else ("maxmemory", 1)
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set(name, value)
    yield redis
    await redis.config_set(name, 0)


async def test_a_redis_that_takes_no_new_value_still_answers_with_those_it_has(
    tier: RedisTier, reading_only: Redis
) -> None:
    assert await acquire(tier, "user:1") == [ValueOrLease(b"1", None)]
    assert await acquire(tier, "user:2") == [ValueOrLease(None, None)]
    assert await acquire(tier, "user:1", "user:2") == [ValueOrLease(b"1", None), ValueOrLease(None, None)]


async def test_a_server_that_forgot_the_script_is_asked_again(tier: RedisTier, silent: WorkerDouble) -> None:
    await acquire(tier, "user:1", "user:2")
    await silent.redis.script_flush()
    one, two, three = await acquire(tier, "user:1", "user:3", "user:4")
    assert one.lease is None
    assert one.found is not None
    assert two.lease is not None
    assert three.lease is not None


async def test_the_keys_of_a_batch_share_a_lease_and_each_loses_it_alone(
    tier: RedisTier, silent: WorkerDouble
) -> None:
    one, two = await acquire(tier, "user:1", "user:2")
    assert one.lease is not None
    assert one.lease == two.lease
    assert await tier.release("user:1", one.lease)
    assert not await tier.extend("user:1", one.lease, seconds=60)
    assert await silent.redis.get("user:2") == two.lease
    (again,) = await acquire(tier, "user:1")
    assert again.lease not in (None, one.lease)  # a lease that was lost is not given twice


async def test_more_keys_than_one_batch_holds(tier: RedisTier, silent: WorkerDouble) -> None:
    got = await acquire(tier, *(f"user:{number}" for number in range(1_200)))
    assert len(got) == 1_200
    assert all(acquired.lease for acquired in got)


async def test_a_key_of_another_type_is_its_own_callers_only(tier: RedisTier, silent: WorkerDouble) -> None:
    await silent.redis.lpush("user:1", "x")
    await silent.redis.expire("user:1", 60)
    assert await acquire(tier, "user:1") == [ValueOrLease(b"", None)]
    odd, free = await acquire(tier, "user:1", "user:2")
    assert odd == ValueOrLease(b"", None)
    assert free.lease is not None


@pytest.mark.parametrize("keys", [1, 2])
async def test_a_life_is_never_that_of_a_later_value(
    tier: RedisTier, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, keys: int
) -> None:
    """Else a value would be kept near for as long as the one that replaced it lives."""
    await silent.redis.set("user:1", b"1", ex=60)
    await silent.redis.set("user:2", b"2")
    pack, sent = Acquires.pack, []

    def remember(self: Acquires, batch: AcquireBatch) -> bytes:
        sent.append(pack(self, batch))
        return sent[-1]

    monkeypatch.setattr(Acquires, "pack", remember)
    asked = [tier.acquire(f"user:{n}", soft=False, seconds=60, life=True) for n in range(1, keys + 1)]
    first, *more = await asyncio.gather(*asked)
    assert first.found == b"1"
    assert first.life is not None
    assert 0 < first.life <= 60
    assert more == [ValueOrLease(b"2", None, inf)] * (keys - 1)
    await silent.redis.unlink("user:2")
    assert sent[0].index(b"PTTL") < min(sent[0].find(word) % 10_000 for word in (b"SET", b"EVAL"))


# --- cancelled callers ------------------------------------------------------------------------------


@pytest.fixture
def cancelling(tier: RedisTier, monkeypatch: pytest.MonkeyPatch) -> "list[asyncio.Task[ValueOrLease]]":
    """Tasks put here are cancelled when their reply has arrived, before they run again."""
    tasks: list[asyncio.Task[ValueOrLease]] = []
    replied = Acquires.replied

    def then_cancel(self: Acquires, *args: Any) -> None:
        replied(self, *args)
        for task in tasks:
            task.cancel()

    monkeypatch.setattr(Acquires, "replied", then_cancel)
    return tasks


async def test_a_lease_is_given_up_by_the_last_of_its_callers_only(
    tier: RedisTier, silent: WorkerDouble, cancelling: "list[asyncio.Task[ValueOrLease]]"
) -> None:
    async def one() -> ValueOrLease:
        asked = tier.acquire(KEY, soft=False, seconds=600)
        try:
            return await asked
        except asyncio.CancelledError:
            tier.abandon(KEY, asked)
            raise

    first, second = asyncio.create_task(one()), asyncio.create_task(one())
    cancelling.append(first)
    lease = (await second).lease
    assert lease is not None
    await asyncio.wait([first])
    assert first.cancelled()
    await tier.unlink(["other"])  # what was sent before it has been done
    assert await silent.redis.get(KEY) == lease
    await tier.release(KEY, lease)

    third, fourth = asyncio.create_task(one()), asyncio.create_task(one())
    cancelling[:] = [third, fourth]
    await asyncio.wait([third, fourth])

    async def gone() -> bool:
        return await silent.redis.get(KEY) is None

    await eventually(gone)


@pytest.mark.parametrize("stands", ["nothing", "soft lease", "lease", "value"])
async def test_a_cancelled_caller_leaves_no_lease_in_the_way(
    tier: RedisTier, silent: WorkerDouble, stands: str
) -> None:
    if stands == "value":
        await silent.redis.set(KEY, b"1", ex=60)
    elif stands != "nothing":
        await acquire(tier, KEY, soft=stands == "soft lease")
    await tier.take_over("user:1", seconds=60)  # both scripts are known
    await tier.replace("user:1", seconds=60)
    take = tier.take_over(KEY, seconds=60) if stands == "soft lease" else tier.replace(KEY, seconds=60)
    task = asyncio.create_task(take)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    async def free() -> bool:
        found: Any = await silent.redis.get(KEY)
        if stands == "value":
            return bool(found is not None and found.strip() == b"1")
        return found is None or is_soft_lease(found)

    await eventually(lambda: not tier._background)
    assert await free()

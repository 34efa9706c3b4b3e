"""37: values served stale while they are refreshed: bounded, purged, and removed with everything else.

Guards: the bound is counted by Redis from the change that made the value untrue (`apply.lua`), a purge wins
over every other change of its key (`PURGED`), and recovery, patterns and other rules drop stale values like
keys. No key becomes due here, so none is refreshed and the stale values can be looked at.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import asyncpg
import pytest
from redis.asyncio import Redis

from faults.promotions import caught_up, cut_off, settle_in_new_epoch
from faults.stage import Stage, staged
from servers import Database, eventually
from servers.proxy import Proxy
from unstale.protocol.names import Names
from unstale_worker.dev_servers import EmbeddedValkey
from workers import PROFILES, running_worker, state_of
from workers.double import RULES, WorkerDouble, attached_cache, redis_client

KEY = "user:1:profile"
STALE = Names().stale(KEY)
BOUND_MS = 600_000
KEEPING = (
    PROFILES
    + """
[[watch]]
table = "public.erased"
keys = ["user:{id}:profile"]
purge = true

[refresh."user:{user_id}:profile"]
loader = "refresh_loaders:greeting"
debounce = "1h"
serve_stale = "10m"
"""
)
PURGE = """
with erased as (insert into erased values (1))
update profiles set version = version + 1 where id = 1 returning version
"""
ERASED = """
create table public.erased (id bigint primary key);
select unstale.watch('public.erased', '{id}');
"""


@asynccontextmanager
async def keeping(
    database: Database, redis_url: str, *, rules: str = KEEPING
) -> AsyncIterator[tuple[Stage, Redis]]:
    """A stage whose worker keeps stale values, and one agent that holds every row."""
    async with staged(database.dsn, redis_url) as (stage, redis):
        await stage.db.execute(ERASED)
        async with running_worker(database.dsn, redis_url, rules=rules):
            cache = await stage.open_agent()
            await eventually(lambda: cache.inspect().rules.serves_stale(KEY))
            await stage.warm()
            yield stage, redis


async def looked_at(redis: Redis) -> tuple[bytes | None, int]:
    """The stale value and when Redis ends it, at one moment; ms since 1970 by its own clock."""
    transaction = redis.pipeline(transaction=True)
    transaction.get(STALE)
    transaction.execute_command("PEXPIRETIME", STALE)
    value, ends = await transaction.execute()
    return value, ends


async def test_what_is_kept_ends_when_it_was_first_said_to(database: Database, redis_url: str) -> None:
    """A thousand changes, an agent that reads on: one value, one end, and not a moment more."""
    async with keeping(database, redis_url) as (stage, redis):
        await stage.write(1)
        await stage.applied(redis)
        first = await looked_at(redis)
        assert first[0] == b"1"
        seconds, micros = await redis.time()
        now = int(seconds) * 1000 + int(micros) // 1000
        assert now < first[1] <= now + BOUND_MS
        over = asyncio.Event()

        async def watch() -> int:
            looks = 0
            while not over.is_set():
                assert await looked_at(redis) == first
                assert await stage.read(1) == 1
                looks += 1
            return looks

        watching = asyncio.create_task(watch())
        for _ in range(40):
            await stage.db.execute(
                "do $$ begin for n in 1..25 loop update profiles set version = version + 1 where id = 1; "
                "commit; end loop; end $$"
            )
        await stage.applied(redis)
        over.set()
        assert await watching > 0
        assert await looked_at(redis) == first
        await redis.pexpire(STALE, 1)  # the bound is over: readers load

        async def gone() -> bool:
            return not await redis.exists(STALE)

        await eventually(gone)
        assert await stage.read(1) == (await stage.truth())[KEY] == 1_002
        await stage.settled(redis)


@pytest.mark.parametrize(
    "change",
    [
        "update profiles set version = version + 1 where id = 1",
        "update profiles set version = version + 1",
        "delete from profiles where id = 1",
    ],
)
async def test_a_worker_that_was_away_serves_nothing_past_the_bound(
    database: Database, redis_url: str, change: str
) -> None:
    """The change may have been committed as soon as the worker was gone, ten minutes ago."""
    async with staged(database.dsn, redis_url) as (stage, redis):
        await stage.db.execute(ERASED)
        async with running_worker(database.dsn, redis_url, rules=KEEPING):
            cache = await stage.open_agent()
            await eventually(lambda: cache.inspect().rules.serves_stale(KEY))
            await stage.warm()
        await redis.hincrbyfloat(Names().state, "read_at", -BOUND_MS)
        await stage.db.execute(change)
        async with running_worker(database.dsn, redis_url, rules=KEEPING):
            await stage.applied(redis)
            assert (await looked_at(redis))[0] is None
            assert await stage.read(1) == (await stage.truth()).get(KEY)


async def test_a_hot_key_that_is_filled_again_and_again(silent: WorkerDouble, valkey: EmbeddedValkey) -> None:
    """1,000 invalidations, readers, and a task that fills: each value is kept until its own next change."""
    silent.rules = replace(RULES, hash="keeping", refresh=((KEY, BOUND_MS / 1000),))
    await silent.recover()
    truth = 0
    async with silent.beating(), attached_cache(valkey.url) as cache:
        await eventually(lambda: cache.inspect().rules.serves_stale(KEY))
        over = asyncio.Event()

        async def load() -> int:
            found = truth
            await asyncio.sleep(0.001)
            return found

        async def refresh() -> None:
            while not over.is_set():
                await cache.get_or_load(KEY, load, fresh=True)

        async def read() -> tuple[int, int]:
            count = newest = 0
            while not over.is_set():
                newest = max(newest, await cache.get_or_load(KEY, load))
                count += 1
                await asyncio.sleep(0)
            return count, newest

        def filled_often(times: int) -> bool:
            return cache.counters().fills >= times

        await cache.get_or_load(KEY, load)
        readers = [asyncio.create_task(read()) for _ in range(20)]
        refresher = asyncio.create_task(refresh())
        for number in range(1, 1_001):
            truth += 1
            last = await silent.apply(KEY)
            if number % 100 == 0:  # without a rest no load may ever be quick enough to be stored
                more = cache.counters().fills + 1
                await eventually(partial(filled_often, more))
        over.set()
        counts = await asyncio.gather(*readers)
        await refresher
        assert min(count for count, _ in counts) > 0
        assert min(newest for _, newest in counts) > 0  # what was kept moved on
        assert cache.counters().stale_hits > 0
        assert cache.counters().fills > 10
        await eventually(lambda: cache.inspect().freshness.last == last)
        assert await cache.get_or_load(KEY, load, fresh=True) == truth
        assert await cache.get_or_load(KEY, load) == truth
        assert await silent.redis.exists(STALE, Names().refresh) == 0


@pytest.mark.parametrize("together", [True, False])
async def test_a_purge_wins(database: Database, redis_url: str, together: bool) -> None:
    """Over another change of its own transaction, and over what concurrent transactions keep."""
    async with keeping(database, redis_url) as (stage, redis):
        others = await asyncpg.create_pool(database.dsn, min_size=4, max_size=4)
        try:
            for n in range(1, 13):
                await stage.warm(users=1)
                if together:
                    async with stage.db.transaction():
                        await stage.write(1)
                        await stage.db.execute("insert into erased values ($1)", -n)
                        await stage.db.execute("update erased set id = 1 where id = $1", -n)
                        await stage.write(1)
                    await stage.db.execute("delete from erased")
                    await stage.applied(redis)
                    assert await redis.exists(KEY, STALE) == 0
                    assert await redis.zscore(Names().refresh, KEY) is None
                    continue
                changes = "update profiles set version = version + 1 where id = 1"
                _, _, purge, *_ = await asyncio.gather(
                    others.execute(changes),
                    stage.read(1),
                    others.fetchval(PURGE),
                    others.execute(changes),
                    stage.read(1),
                    others.execute(changes),
                )
                await stage.applied(redis)
                kept = await redis.get(STALE)
                assert kept is None or int(kept) >= purge  # a reader may have filled what came after it
                await stage.db.execute("delete from erased")
                await stage.applied(redis)
                assert await redis.exists(STALE) == 0
        finally:
            await others.close()


@pytest.mark.parametrize("purged", [True, False])
async def test_a_failover_that_takes_it_back(
    database: Database, pair: tuple[EmbeddedValkey, EmbeddedValkey], purged: bool
) -> None:
    """The promoted server has the value and the position from before; what was done to it is done again."""
    primary, replica = pair
    async with Proxy(primary.port) as proxy:
        url = proxy.url(primary.url)
        async with keeping(database, url) as (stage, redis):
            before = (await state_of(redis))["epoch"]
            await caught_up(redis, replica)
            async with cut_off(replica) as client:
                await stage.write(1)
                if purged:
                    await stage.db.execute("insert into erased values (1)")
                await stage.applied(redis)
                assert await redis.exists(STALE) == (0 if purged else 1)
                assert await client.get(KEY) == b"1"
                await primary.kill()
                await client.execute_command("REPLICAOF", "NO", "ONE")
            proxy.target = replica.port
            proxy.cut()
            await settle_in_new_epoch(stage, redis, before)
            value, ends = await looked_at(redis)
            if purged:
                assert value is None
                assert await stage.read(1) == 2
            else:
                seconds, _ = await redis.time()
                assert value == b"1"
                assert ends <= (int(seconds) + 1) * 1000 + BOUND_MS


@pytest.mark.parametrize("lost", ["state", "rules", "everything"])
async def test_nothing_stale_outlives_a_new_history(database: Database, redis_url: str, lost: str) -> None:
    """Changes without a position are not known, and a purge may be among them."""
    async with keeping(database, redis_url) as (stage, redis):
        await stage.write(1)
        await stage.applied(redis)
        assert await redis.exists(STALE) == 1
        epoch = await redis.hget(Names().state, "epoch")
        await redis.set(Names().stale("user:never:profile"), "kept under unknown rules", px=BOUND_MS)
        if lost == "everything":
            await redis.flushall()
        else:
            await redis.unlink(Names().state, *([Names().rules] if lost == "rules" else []))

        async def again() -> bool:
            return await redis.hget(Names().state, "epoch") not in (None, epoch)

        await eventually(again)
        assert await redis.exists(STALE, Names().stale("user:never:profile")) == 0
        await stage.warm()
        await stage.settled(redis)


async def test_other_rules_keep_nothing(database: Database, redis_url: str) -> None:
    """A worker whose rules serve nothing stale leaves nothing that was kept under the old ones."""
    async with staged(database.dsn, redis_url) as (stage, redis):
        await stage.db.execute(ERASED)
        async with running_worker(database.dsn, redis_url, rules=KEEPING):
            await stage.open_agent()
            await stage.warm()
            await stage.write(1)
            await stage.applied(redis)
            assert await redis.exists(STALE) == 1
        async with running_worker(database.dsn, redis_url, rules=PROFILES):
            assert await redis.exists(STALE) == 0
            cache = stage.agents[0]
            await eventually(lambda: not cache.inspect().rules.serves_stale(KEY))
            await stage.settled(redis)


async def test_truncate_leaves_nothing_stale(database: Database, redis_url: str) -> None:
    async with keeping(database, redis_url) as (stage, redis):
        for user in range(1, 11):
            await stage.write(user)
        await stage.applied(redis)
        assert len([key async for key in redis.scan_iter(match=Names().stale("*"))]) == 10
        await stage.db.execute("truncate profiles")
        await stage.applied(redis)
        assert [key async for key in redis.scan_iter(match=Names().stale("*"))] == []
        assert await stage.read(1) is None


async def test_played_against_an_agent_that_is_older_than_the_rules(
    silent: WorkerDouble, valkey: EmbeddedValkey
) -> None:
    """A rolling deploy: it fills as it always did, and the value wins over what is stale."""
    silent.rules = replace(RULES, refresh=((KEY, BOUND_MS / 1000),))
    await silent.recover()
    async with silent.beating(), attached_cache(valkey.url) as old, redis_client(valkey.url) as redis:
        await old.get_or_load(KEY, lambda: 1)
        old.inspect().rules.adopt(RULES)
        last = await silent.apply(KEY)
        await eventually(lambda: old.inspect().freshness.last >= last)
        assert await old.get_or_load(KEY, lambda: 2) == 2
        assert await redis.get(STALE) == b"1"
        async with attached_cache(valkey.url) as new:
            assert await new.get_or_load(KEY, lambda: 3) == 2
            await silent.apply(KEY)
            assert await new.get_or_load(KEY, lambda: 3) == 2

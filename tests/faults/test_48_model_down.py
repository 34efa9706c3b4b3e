"""48: loaders that fail for minutes: the last value is answered within its bound, and nothing past it.

Guards: every fill stores a spare value (`fill.lua`, `refresh_fill.lua`); a change only brings its end nearer,
a purge removes it, and patterns drop it after their keys (`apply.lua`, `key_scan.py`); rules that keep no
spare values leave none behind.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from faults.stage import Stage, staged
from servers import Database, eventually
from unstale import Cache
from unstale.protocol.names import Names
from workers import PROFILES, running_worker

KEY = "user:1:profile"
SPARE = Names().spare(KEY)
ERASED = """
create table public.erased (id bigint primary key);
select unstale.watch('public.erased', '{id}');
grant select on public.profiles to unstale_worker;
"""
PURGES = PROFILES + '[[watch]]\ntable = "public.erased"\nkeys = ["user:{id}:profile"]\npurge = true\n'
READS = PURGES + '[reads."user:{id}:profile"]\nstale_if_error = "10m"\n'
REFRESH = """
[refresh."user:{user_id}:profile"]
loader = "sql"
query = "select version as value from public.profiles where id = {user_id}"
stale_if_error = "10m"
"""


class Down(Exception):
    """The model does not answer."""


@asynccontextmanager
async def keeping(database: Database, redis_url: str, rules: str) -> AsyncIterator[tuple[Stage, Redis]]:
    async with staged(database.dsn, redis_url) as (stage, redis):
        await stage.db.execute(ERASED)
        async with running_worker(database.dsn, redis_url, rules=rules):
            cache = await stage.open_agent()
            await eventually(lambda: cache.inspect().rules.of(KEY).spare == 600)
            await stage.warm()
            yield stage, redis


async def answer(cache: Cache) -> Any:
    """What a reader gets while the model is down."""

    async def load() -> Any:
        raise Down

    try:
        return await cache.get_or_load(KEY, load)
    except Down:
        return Down


async def test_readers_get_the_last_value_and_nothing_from_before_a_purge(
    database: Database, redis_url: str
) -> None:
    async with keeping(database, redis_url, READS) as (stage, redis):
        cache = stage.agents[0]
        for _ in range(5):
            await stage.write(1)
            await stage.applied(redis)
            assert await answer(cache) == 1
            assert 0 < await redis.pttl(SPARE) <= 600_000
        await redis.pexpire(SPARE, 1)  # its bound is over
        await eventually(lambda: _gone(redis))
        assert await answer(cache) is Down
        for end in ("insert into erased values (1)", "truncate profiles"):
            await stage.read(1)
            assert await redis.exists(SPARE) == 1
            await stage.db.execute(end)
            await stage.applied(redis)
            assert await redis.exists(SPARE) == 0
            assert await answer(cache) is Down


async def test_what_the_worker_has_refreshed_is_kept_too(database: Database, redis_url: str) -> None:
    async with keeping(database, redis_url, PROFILES + REFRESH) as (stage, redis):
        for _ in range(3):
            version = await stage.write(1)
            await eventually(lambda: _holds(redis, version))  # noqa: B023
        await redis.unlink(KEY)  # its TTL ends
        stage.agents[0].inspect().local.near.drop(KEY)
        assert await answer(stage.agents[0]) == version


def _holds(redis: Redis, version: int) -> Any:
    async def holds() -> bool:
        return await redis.get(SPARE) == b"600000\n%d" % version

    return holds()


async def test_a_recovery_and_rules_without_it_leave_none(database: Database, redis_url: str) -> None:
    """Changes without a position are not known, and without the rule no change bounds what is left."""
    async with staged(database.dsn, redis_url) as (stage, redis):
        await stage.db.execute(ERASED)
        for lost in ("state", "rules"):
            async with running_worker(database.dsn, redis_url, rules=READS):
                if not stage.agents:
                    await stage.open_agent()
                await eventually(lambda: stage.agents[0].inspect().rules.of(KEY).spare == 600)
                await eventually(lambda: stage.agents[0].attached)
                await stage.warm()
                assert await redis.exists(SPARE) == 1
                if lost == "state":
                    await redis.unlink(Names().state)
                    await eventually(lambda: _gone(redis))
            if lost == "rules":
                async with running_worker(database.dsn, redis_url, rules=PURGES):
                    await eventually(lambda: _gone(redis))


async def _gone(redis: Redis) -> bool:
    return not await redis.exists(SPARE)

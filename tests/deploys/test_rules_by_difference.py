"""A restart with other rules drops the keys of the patterns that changed, and nothing else."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from servers import Database, eventually
from unstale import Cache
from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import Names
from unstale_worker.leader import rules_transition
from workers import connected, redis_at, running_worker, state_of, worker_process
from workers.double import attached_cache

SCHEMA = """
create table public.items (id bigint primary key, name text, version bigint not null default 0);
insert into public.items select g, 'x' from generate_series(1, 9) g;
create table public.notes (id bigint primary key, item bigint not null);
insert into public.notes values (1, 1);
select unstale.watch('public.items', '{id}');
select unstale.watch('public.notes', '{id,item}');
"""
ITEMS = '[[watch]]\ntable = "public.items"\nkeys = ["item:{id}", "card:{id}"]\n'
NOTES = '[[watch]]\ntable = "public.notes"\ncolumns = ["item"]\nkeys = ["card:{item}"]\n'
TTL = '[ttl]\n"item:*" = "1h"\n"card:*" = "1h"\n"*:1" = "1h"\n'
RULES = ITEMS + NOTES + TTL
MORE = RULES.replace('"card:{item}"', '"card:{item}", "note:{id}"')
"""Of these, only the pattern ``note:*`` is new."""
OTHER = RULES.replace('columns = ["item"]\n', "")
"""Of these, only ``card:*`` has another meaning: changes count that do not count by `RULES`."""


async def near(cache: Cache, key: str) -> bool:
    """Return True if memory answers."""
    before = cache.counters().near_hits
    await cache.get_or_load(key, lambda: "loaded")
    return cache.counters().near_hits > before


async def keep(cache: Cache, *keys: str) -> None:
    """Let Redis and memory hold each key."""

    async def both() -> bool:
        return all([await near(cache, key) for key in keys])

    await eventually(both, message="memory answers")


async def test_what_did_not_change_stays_everywhere(database: Database, redis_url: str) -> None:
    """Also what changed while no worker ran is invalidated, because the position stays."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, AsyncExitStack() as stack:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            agent = await stack.enter_async_context(attached_cache(redis_url, max_silence=60.0))
            await keep(agent, "item:1", "item:2", "card:1")
            before = await state_of(redis)
        await db.execute("update items set version = 1 where id = 2")
        loads = agent.counters().loads
        async with running_worker(database.worker_dsn, redis_url, rules=OTHER) as worker:
            await eventually(lambda: agent.inspect().rules.hash != before["rules"])
            assert (await redis.exists("item:1"), await redis.exists("item:2", "card:1")) == (1, 0)
            assert await near(agent, "item:1")
            assert agent.counters().loads == loads
            assert not await near(agent, "item:2")
            assert not await near(agent, "card:1")
            assert (await state_of(redis))["epoch"] == before["epoch"]
            assert worker.status().counters.recoveries == 0
            await db.execute("update items set version = 2 where id = 1")
            await eventually(lambda: gone(redis, "item:1"))
            await keep(agent, "card:1")
        loads = agent.counters().loads
        async with running_worker(database.worker_dsn, redis_url, rules=RULES) as worker:
            await eventually(lambda: agent.inspect().rules.hash not in (before["rules"], ""))
            assert worker.status().former_watches, "an agent may use what counted"
            assert await near(agent, "card:1")
            assert agent.counters().loads == loads, "fewer changes count: nothing is dropped"
            await db.execute("update notes set item = 1, id = 2")
            await eventually(lambda: gone(redis, "card:1"))
        await redis.flushdb()


async def published(redis: Redis) -> PublishedRules:
    """Return the rules that agents read."""
    found: Any = await redis.get(Names().rules)
    return PublishedRules.decode(found)


async def gone(redis: Redis, *keys: str) -> bool:
    return not await redis.exists(*keys)


@pytest.mark.parametrize(
    ("step", "next_rules"),
    [
        ("adoption.begun", "the same"),
        ("applier.after_drop", "the old ones"),
        ("adoption.before_published", "the same"),
    ],
)
async def test_killed_while_rules_are_put_in_force(
    database: Database, redis_url: str, step: str, next_rules: str
) -> None:
    """No key of a pattern that is not dropped yet is served as an owned one, whoever leads next."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            old = await published(redis)
        await redis.mset({"note:1": "1", "item:1": "1"})
        with worker_process(
            database.worker_dsn, redis_url, rules=MORE, armed=f"{step}=kill", UNSTALE_LEADER_TTL="1"
        ) as dies:
            await asyncio.to_thread(dies.wait, 60)
        assert await published(redis) == old, "agents do not know them yet"
        assert (await state_of(redis))["rules"] == "adopting", "so put.lua stores nothing"
        await redis.set("note:1", "2")
        rules = MORE if next_rules == "the same" else RULES
        async with running_worker(database.worker_dsn, redis_url, rules=rules) as worker:
            assert await redis.mget("note:1", "item:1") == [None, b"1"]
            assert worker.status().counters.recoveries == 0
            assert "adopting" not in await state_of(redis)
        await redis.flushdb()


async def lives_shortly(redis: Redis, key: str) -> bool:
    return 0 < int(await redis.ttl(key)) <= 120


async def test_a_ttl_alone_drops_nothing_and_bounds_what_is_stored(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules_transition, "ALL_KNOW_AFTER", 0.5)
    shorter = RULES.replace('"item:*" = "1h"', '"item:*" = "2m"').replace('"*:1" = "1h"', '"*:1" = "30s"')
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, AsyncExitStack() as stack:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            agent = await stack.enter_async_context(attached_cache(redis_url, max_silence=60.0))
            await keep(agent, "item:1", "card:1")
        loads = agent.counters().loads
        await redis.set("foreign:1", "the user's own", ex=3600)
        await redis.set("item:7", "without a TTL, so not of a cache")
        async with running_worker(database.worker_dsn, redis_url, rules=shorter):
            await eventually(partial(lives_shortly, redis, "item:1"))
            assert await redis.ttl("card:1") > 2000, "its TTL is still that of card:*"
            assert await redis.ttl("foreign:1") > 2000
            assert await redis.ttl("item:7") == -1
            await keep(agent, "item:1", "card:1")
            assert agent.counters().loads == loads, "nothing was dropped"
            await redis.set("item:3", "1", ex=3600)  # by an agent that has not heard of them yet
            await eventually(partial(lives_shortly, redis, "item:3"))
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            assert 0 < await redis.ttl("item:1") <= 120, "a longer one counts for what is stored next"
            assert agent.counters().loads == loads
        await redis.flushdb()


async def test_the_next_leader_goes_on_shortening_after_a_crash(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules_transition, "ALL_KNOW_AFTER", 0.5)
    shorter = RULES.replace('"item:*" = "1h"', '"item:*" = "2m"')
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            await redis.set("item:1", "1", ex=3600)
        with worker_process(
            database.worker_dsn,
            redis_url,
            rules=shorter,
            armed="adoption.before_shorten=kill",
            UNSTALE_LEADER_TTL="1",
        ) as dies:
            await asyncio.to_thread(dies.wait, 60)
        assert await redis.ttl("item:1") > 2000, "nothing was shortened"
        assert (await state_of(redis))["lives"] == '["item:*"]'
        async with running_worker(database.worker_dsn, redis_url, rules=shorter):
            await eventually(partial(lives_shortly, redis, "item:1"))
            await eventually(partial(nothing_to_shorten, redis))
        await redis.mset({"item:1": "1", "item:2": "2"})
        await redis.expire("item:1", 3600)
        async with running_worker(database.worker_dsn, redis_url, rules=shorter):
            await db.execute("update items set version = 1 where id = 2")
            await eventually(partial(gone, redis, "item:2"))
            assert await redis.ttl("item:1") > 2000, "it is done once"
        await redis.flushdb()


async def nothing_to_shorten(redis: Redis) -> bool:
    return "lives" not in await state_of(redis)


async def test_rules_whose_meaning_nobody_recorded_are_dropped_as_a_whole(
    database: Database, redis_url: str
) -> None:
    """A worker of version 0.1.0 published no meanings. Rules of another origin than the state are as bad."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        for damage in ("no meanings", "another hash", "no JSON"):
            async with running_worker(database.worker_dsn, redis_url, rules=RULES):
                text = (await published(redis)).encode().decode()
            broken = {
                "no meanings": text.replace('"meanings"', '"other"'),
                "another hash": text.replace('"hash":"', '"hash":"0'),
                "no JSON": "{",
            }
            await redis.set(Names().rules, broken[damage])
            await redis.mset({"item:1": "1", "card:1": "1"})
            async with running_worker(database.worker_dsn, redis_url, rules=OTHER):
                assert await gone(redis, "item:1", "card:1"), damage

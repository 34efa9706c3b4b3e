"""Watches that new rules lack are applied until no agent of the old rules is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from servers import Database, eventually
from unstale import Cache
from unstale.protocol.key_watches import KEPT_SIGN
from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import Names
from unstale_worker.agents.read import read_agents
from unstale_worker.captures import monitor
from unstale_worker.leader import former_rules, rules_in_force
from unstale_worker.rules import Rules
from workers import connected, redis_at, running_worker, state_of, worker_process
from workers.double import attached_cache

SCHEMA = """
create table public.items (id bigint primary key, shelf bigint, name text, version bigint not null default 0);
create table public.notes (id bigint primary key, version bigint not null default 0);
create table public.shelves (id bigint primary key, version bigint not null default 0);
insert into public.items select g, 1, 'n' || g, 0 from generate_series(1, 9) g;
insert into public.notes select g, 0 from generate_series(1, 9) g;
insert into public.shelves values (1, 0);
grant select on public.items to unstale_worker;
select unstale.watch('public.items', '{id,shelf,name}');
select unstale.watch('public.notes', '{id}');
select unstale.watch('public.shelves', '{id}');
"""
R1 = """
[[watch]]
table = "public.items"
keys = ["item:{id}", "named:{name}"]
tags = ["shelf:{shelf}"]
[[watch]]
table = "public.notes"
keys = ["note:{id}"]
[[watch]]
table = "public.shelves"
keys = ["box:{id}"]
query = "select id from public.items where shelf = {id}"
[ttl]
"*" = "1h"
"""
R2 = """
[[watch]]
table = "public.items"
keys = ["thing:{id}"]
tags = ["rack:{shelf}"]
[[watch]]
table = "public.shelves"
keys = ["box:{id}"]
query = "select id from public.items where shelf = {id} and id < 3"
[ttl]
"*" = "1h"
"""
R3 = R2.replace("thing:{id}", "entry:{id}")
LOADED: dict[str, tuple[str, ...]] = {
    "item:1": (),
    "named:n1": (),
    "note:1": (),
    "box:5": (),
    "tagged": ("shelf:1",),
}
"""Keys of the old rules, with their tags."""
WRITES = {
    "item:1": "update items set version = version + 1 where id = 1",
    "named:n1": "update items set version = version + 1 where id = 1",
    "note:1": "update notes set version = version + 1 where id = 1",
    "box:5": "update shelves set version = version + 1",
    "tagged": "update items set version = version + 1 where id = 7",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the reports and the captures several times a second."""
    monkeypatch.setattr(rules_in_force, "LOOK_EVERY", 0.1)
    for name in ("CHECK_EVERY", "REPEAT_EVERY", "LEAST_PAUSE"):
        monkeypatch.setattr(monitor, name, 0.2)


class Reader:
    """An agent that reads some keys with ``max_staleness``, and counts its loads."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.loads = cache, dict.fromkeys(LOADED, 0)

    async def read(self, key: str) -> bool:
        """Read a key; return True if a cache answered."""

        async def load() -> int:
            self.loads[key] = self.loads.get(key, 0) + 1
            return self.loads[key]

        before = self.loads.get(key, 0)
        await self.cache.get_or_load(key, load, tags=LOADED.get(key, ()), max_staleness=30.0)
        return self.loads[key] == before

    async def cached(self, *keys: str) -> None:
        """Wait until memory or Redis answers."""
        for key in keys:
            await eventually(partial(self.read, key), message=f"{key} is cached")

    async def reloaded(self, key: str, after: int) -> bool:
        """Return True if the key was loaded again."""
        await self.read(key)
        return self.loads[key] > after


async def published(redis: Redis) -> PublishedRules:
    found: Any = await redis.get(Names().rules)
    return PublishedRules.decode(found)


async def invalidated(reader: Reader, write: Callable[[str], Awaitable[object]], *keys: str) -> None:
    """Check that a change is heard by the agent, for each key by itself."""
    for key in keys:
        await reader.cached(key)
        loads = reader.loads[key]
        await write(WRITES[key])
        await eventually(partial(reader.reloaded, key, loads), message=f"{key} is loaded again")


async def test_the_keys_of_former_watches_are_invalidated_until_no_agent_uses_them(
    database: Database, redis_url: str
) -> None:
    """Two deploys in a row, a leader killed between them, and a column that leaves the capture."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, AsyncExitStack() as stack:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, rules=R1):
            cache = await stack.enter_async_context(attached_cache(redis_url, max_silence=60.0))
            old = Reader(cache)
            await old.cached(*LOADED)
            hash_1 = (await state_of(redis))["rules"]
            loads = dict(old.loads)
        assert KEPT_SIGN not in hash_1
        with worker_process(database.worker_dsn, redis_url, rules=R2, UNSTALE_LEADER_TTL="1") as killed:

            async def leads() -> bool:
                return (await state_of(redis))["rules"].startswith(Rules.parse(R2).hash)

            await eventually(leads)
            await eventually(lambda: cache.inspect().rules.hash != hash_1 and cache.attached)
            await asyncio.gather(*(old.read(key) for key in LOADED if key != "box:5"))
            assert {**old.loads, "box:5": 0} == {**loads, "box:5": 0}, "what did not change stays warm"
            await invalidated(old, db.execute, *LOADED)
            killed.kill()
            await asyncio.to_thread(killed.wait, 60)
        async with running_worker(database.worker_dsn, redis_url, rules=R2) as worker:
            assert worker.status().counters.recoveries == 0
            assert {table for table, *_ in worker.status().former_watches} == {
                "public.items", "public.notes", "public.shelves",
            }  # fmt: skip
            await invalidated(old, db.execute, *LOADED)
            new = Reader(await stack.enter_async_context(attached_cache(redis_url, max_silence=60.0)))
            WRITES["thing:2"] = "update items set version = version + 1 where id = 2"
            await invalidated(new, db.execute, "thing:2")
        async with running_worker(database.worker_dsn, redis_url, rules=R3):
            await db.execute("select unstale.watch('public.items', '{id,shelf}')")
            await invalidated(old, db.execute, *LOADED)
            await invalidated(new, db.execute, "thing:2")
            patterns = set((await published(redis)).patterns)
            assert {"item:*", "thing:*", "entry:*", "note:*"} <= patterns
        await redis.flushdb()


async def test_they_are_retired_when_the_last_agent_ends(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by an agent that was started later; an agent that does not report has the bound of lost keys."""
    looks = 0
    looked = former_rules.FormerRules.looked

    def counted(self: former_rules.FormerRules, *args: Any, **more: Any) -> None:
        nonlocal looks
        looks += 1
        looked(self, *args, **more)

    monkeypatch.setattr(former_rules.FormerRules, "looked", counted)
    monkeypatch.setattr(former_rules, "QUIET", 0.0)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, AsyncExitStack() as stack:
        await db.execute(SCHEMA)

        async def agent(stack: AsyncExitStack, **more: Any) -> Reader:
            more = {"max_silence": 60.0, "report_interval": 4.0, "detached_ttl": 20.0} | more
            return Reader(await stack.enter_async_context(attached_cache(redis_url, **more)))

        async def unowned(reader: Reader, key: str) -> bool:
            """Return True if no cached value of ``key`` satisfies ``max_staleness``."""
            return not await reader.read(key) and not await reader.read(key)

        async def tag_reported() -> bool:
            found = await read_agents(redis, Names())
            return any("unstale:tag:shelf:*" in each.report.former for each in found.agents)

        async def looked_often() -> None:
            until = looks + 3
            await eventually(lambda: looks >= until, message="the leader looks at the reports")

        async with running_worker(database.worker_dsn, redis_url, rules=R1):
            before = await stack.enter_async_context(AsyncExitStack())
            old, silent = await agent(before), await agent(stack, report_interval=0)
            await old.cached(*LOADED)
        with capture_logs() as logs:
            async with running_worker(database.worker_dsn, redis_url, rules=R2):
                await silent.cached("item:1", "note:1")
                await db.execute("select unstale.unwatch('public.notes')")
                await eventually(partial(unowned, old, "note:1"), message="nothing captures its changes")
                assert await redis.pttl("note:1") <= 20_000
                await looked_often()
                assert {"item:*", "named:*"} <= set((await published(redis)).patterns), "an old agent is left"
                later = await stack.enter_async_context(AsyncExitStack())
                late = await agent(later)
                await late.cached("tagged")
                await eventually(tag_reported, message="the agent reports the tag")
                await before.aclose()
                await looked_often()
                kept = {each.alone for each in (await published(redis)).kept}
                assert "unstale:tag:shelf:*" in kept, "an agent of the old code uses the tag"
                assert "item:*" not in kept, "no agent uses it"
                await later.aclose()

                async def retired() -> bool:
                    return (await state_of(redis))["rules"] == Rules.parse(R2).hash

                await eventually(retired)
                assert not await redis.exists("item:1", "unstale:tag:shelf:1")
                await eventually(partial(unowned, silent, "item:1"), message="the agent hears of it")
                assert 0 < await redis.pttl("item:1") <= 20_000
        said = [(log["table"], log["template"]) for log in logs if "no longer" in log["event"]]
        assert len(said) == len(set(said)) == 5, said
        reasons = {log["template"]: log["why"] for log in logs if "no longer" in log["event"]}
        assert "may go unreported" in reasons["note:{id}"]
        assert reasons["item:{id}"] == "no agent that reports uses it any more"
        async with running_worker(database.worker_dsn, redis_url, rules=R3, former_rules=0):
            assert "thing:*" not in (await published(redis)).patterns, "it is switched off"
        await redis.flushdb()

"""``cache.subscribe(…, reasons=True)``: an event says which change or call was the reason."""

from __future__ import annotations

import asyncio
import os

from servers import Database
from unstale import Invalidated
from unstale.freshness.subscriptions import Subscription
from workers import applied, connected, redis_at, running_worker
from workers.double import attached_cache

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[[watch]]
table = "public.memories"
tags = ["user:{user_id}:memories"]
"""
SCHEMA = """
create table public.profiles (id bigint primary key, name text);
create table public.memories (id bigint primary key, user_id text);
select unstale.watch('public.profiles', '{id}');
select unstale.watch('public.memories', '{user_id}');
"""


async def heard(events: Subscription) -> Invalidated:
    async with asyncio.timeout(60):
        event = await anext(events)
    assert isinstance(event, Invalidated)
    return event


async def test_each_event_says_why(database: Database, redis_url: str) -> None:
    async with (
        connected(database.dsn) as db,
        redis_at(redis_url) as redis,
    ):
        await db.execute(SCHEMA)
        async with (
            running_worker(database.dsn, redis_url, rules=RULES),
            attached_cache(redis_url, max_silence=60.0) as cache,
        ):
            await applied(redis, db)
            async with (
                cache.subscribe("user:*", reasons=True) as events,
                cache.subscribe("user:*") as plain,
            ):
                await db.execute(
                    'begin; select unstale.because(\'{"actor": "support"}\'); '
                    "insert into public.profiles values (1, 'a'); commit"
                )
                event = await heard(events)
                (reason,) = event.reasons
                assert event.keys == reason.keys == ("user:1:profile",)
                assert (reason.kind, reason.table, reason.operation) == (
                    "changes",
                    "public.profiles",
                    "insert",
                )
                assert reason.annotation == {"actor": "support"}
                assert reason.transaction is not None
                assert abs(reason.applied_at - (await redis.time())[0]) < 600

                await db.execute(
                    "begin; insert into public.profiles values (2, 'b'), (3, 'c'); "
                    "update public.profiles set name = 'd' where id = 1; "
                    "insert into public.memories values (1, '4'); commit"
                )
                event = await heard(events)
                named = {(each.operation, each.table): set(each.keys) for each in event.reasons}
                assert named == {
                    ("insert", "public.profiles"): {"user:2:profile", "user:3:profile"},
                    ("update", "public.profiles"): {"user:1:profile"},
                    ("insert", "public.memories"): {"user:4:memories"},
                }
                assert event.tags == ("user:4:memories",)

                await db.execute("truncate public.profiles")
                event = await heard(events)
                assert event.patterns == ("user:*:profile",)
                assert [(each.operation, each.keys) for each in event.reasons] == [("truncate", ())]

                async with attached_cache(redis_url, max_silence=60.0) as other:
                    await other.delete("user:9:profile")
                event = await heard(events)
                (reason,) = event.reasons
                assert (reason.kind, reason.table) == ("delete", None)
                assert reason.process is not None
                assert reason.process.endswith(f":{os.getpid()}")
                assert (await heard(plain)).reasons == ()

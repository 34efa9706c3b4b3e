"""``unstale replay`` announces earlier changes again, and touches nothing else."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from servers import Database, eventually
from servers.both_sources import way
from unstale.protocol.names import Names
from unstale.protocol.tags import record
from unstale.settings import WorkerSettings
from unstale_worker.replay.run import run_replay
from unstale_worker.rules import Rules
from unstale_worker.tracing.why import why
from workers import applied, connected, redis_at, running_worker, state_of
from workers.commands import run
from workers.double import Loader, attached_cache

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[[watch]]
table = "public.memories"
keys = ["memory:{id}"]
tags = ["user:{user_id}:memories"]
"""
SCHEMA = """
create table public.profiles (id bigint primary key, name text);
create table public.memories (id bigint primary key, user_id text, content text);
select unstale.watch('public.profiles', '{id}');
select unstale.watch('public.memories', '{id,user_id}');
"""
KEYS = ("user:1:profile", "memory:1", "user:2:profile")
SEARCH, TAG = "search:1:cats", "user:1:memories"


@pytest.mark.parametrize("kind", ["outbox", "supabase"])
async def test_earlier_changes_are_announced_again(
    database: Database, redis_url: str, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "unstale.toml").write_text(RULES)
    rules, load = Rules.parse(RULES), Loader("loaded")
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, AsyncExitStack() as stack:
        await db.execute(SCHEMA)
        await recorded(db, "2 hours")  # the entries of `watch` are older
        there = await stack.enter_async_context(way(kind, database))
        settings = WorkerSettings.from_env(
            env_file=None, redis_url=redis_url, config=tmp_path / "unstale.toml", **there.settings
        )
        again = partial(run_replay, settings, since=3_600.0)
        await stack.enter_async_context(running_worker(database.dsn, redis_url, rules=RULES))
        cache = await stack.enter_async_context(attached_cache(redis_url, max_silence=60.0))
        await db.execute("insert into public.profiles values (1, 'a'), (2, 'b')")
        await db.execute("insert into public.memories values (1, '1', 'x')")
        await db.execute("update public.profiles set name = 'c' where id = 1")
        await applied(redis, db)

        async def cached() -> bool:
            before = load.calls
            for key in KEYS:
                await cache.get_or_load(key, load)
            await cache.get_or_load(SEARCH, load, tags=[TAG])
            return load.calls == before

        await eventually(cached)
        before = await state_of(redis)
        tried = await again(table=None, dry_run=True)
        assert tried.entries == {
            "insert of public.memories": 1,
            "insert of public.profiles": 1,
            "update of public.profiles": 1,
        }
        assert tried.first_keys == ["user:1:profile", "user:2:profile", "memory:1", f"tag {TAG}"]
        assert await cached(), "a dry run announces nothing"

        calls = load.calls
        told = await again(table="public.profiles")
        assert (told.keys, told.entries.get("insert of public.memories")) == (2, None)
        assert await redis.exists("user:1:profile", "user:2:profile") == 0
        await eventually(cached)
        assert load.calls == calls + 2, "memories stayed everywhere"

        for _ in range(2):  # as often as one likes
            await again(table=None)
            assert await redis.exists(*KEYS, record(TAG)) == 0
        calls = load.calls
        await eventually(cached)
        assert load.calls == calls + 4
        await db.execute("truncate public.memories")
        await applied(redis, db)
        await eventually(cached)
        await again(table="public.memories")  # by patterns: the change was of the whole table
        assert await redis.exists("memory:1", record(TAG)) == 0
        (removal, *_) = (await why(redis, Names(), rules, KEYS[0], most=1)).removals
        assert removal.kind == "replay"
        assert (await state_of(redis))["epoch"] == before["epoch"]


async def recorded(db: asyncpg.Connection, ago: str) -> None:
    """Record a position as if it were that old."""
    await db.execute(
        "insert into unstale.snapshots (snapshot, taken_at) "
        "values (pg_current_snapshot(), clock_timestamp() - $1::text::interval)",
        ago,
    )


async def test_it_says_how_far_back_it_can_go(database: Database, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "unstale.toml").write_text(RULES)
    settings = {"REDIS_URL": redis_url, "DATABASE_URL": database.dsn}

    async def refused(*options: str, code: int = 1) -> str:
        ended = await asyncio.to_thread(run, "replay", *options, cwd=tmp_path, settings=settings)
        assert (ended.code, ended.out) == (code, ""), ended.err
        return ended.err

    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        await db.execute("insert into public.profiles values (1, 'a')")
        await db.execute("select unstale.purge(1000, interval '0')")
        assert "is not a duration such as 90s, 10m or 1h" in await refused("--since", "ten", code=2)
        await recorded(db, "1 hour")
        unknown = await refused("--since", "1s", "--table", "a.b", code=2)
        assert "these are: public.memories, public.profiles" in unknown
        await db.execute("delete from unstale.snapshots")
        assert "no position was recorded yet" in await refused("--since", "1h")
        await recorded(db, "90 seconds")
        assert "the outbox reaches back 9" in await refused("--since", "1h")
        await db.execute("insert into public.profiles values (2, 'b')")
        ended = await asyncio.to_thread(
            run, "replay", "--since", "1m", "--dry-run", cwd=tmp_path, settings=settings
        )
        assert ended.code == 0, ended.err
        assert "1 insert of public.profiles" in ended.out
        assert "1 keys and 0 patterns would be announced again" in ended.out
        assert "user:2:profile" in ended.out

"""During a deploy the database, the worker and the agents may have different rules: no key stays stale."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis

from servers import Database, eventually
from servers.both_sources import KINDS, push, way
from unstale.errors import MigrationMissing
from unstale.protocol.messages import PublishedRules
from unstale_worker.captures import monitor
from unstale_worker.leader.supervisor import Worker
from unstale_worker.rules import Rules, difference
from workers import connected, redis_at, settings_for

TABLES = """
create table public.profiles (id bigint primary key, name text, version bigint not null default 0);
create table public.members (org_id bigint, user_id bigint, primary key (org_id, user_id));
insert into public.profiles values (1, 'Ada');
insert into public.members values (1, 1), (2, 1);
"""
PROFILES = '[[watch]]\ntable = "public.profiles"\nkeys = ["user:{id}:profile"]\n'
BY_NAME = PROFILES.replace("{id}", "{name}")
FILTERED = PROFILES + 'columns = ["name"]\n'
MEMBERS = '[[watch]]\ntable = "public.members"\nkeys = ["user:{user_id}:orgs"]\n'
QUERY = """
[[watch]]
table = "public.profiles"
keys = ["user:{org}:profile"]
query = "select org_id as org from public.members where user_id = {id}"
"""
OTHER_QUERY = QUERY.replace("where user_id = {id}", "where user_id = {id} and org_id > 0")
PEOPLE = PROFILES.replace("public.profiles", "public.people")


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the rules.

    Attributes:
        old: The rules before.
        new: The rules after.
        write: Changes a row in a way that the old rules or the new ones count.
        key: The key that must go, by the old rules.
        ddl: What the same migration does to the tables.
        refused: Sources over which a worker with the new rules waits for the database.
    """

    old: str
    new: str
    write: str = "update profiles set version = version + 1"
    key: str = "user:1:profile"
    ddl: str = "select 1"
    refused: tuple[str, ...] = ()


CHANGES = {
    "columns added": Change(PROFILES, FILTERED),
    "columns removed": Change(FILTERED, PROFILES, refused=KINDS),
    "another column in the key": Change(PROFILES, BY_NAME, refused=KINDS),
    "a watch added": Change(PROFILES, PROFILES + MEMBERS, refused=KINDS),
    "a watch removed": Change(
        PROFILES + MEMBERS, PROFILES, "update members set org_id = org_id + 5", "user:1:orgs"
    ),
    "all watches but one replaced": Change(
        MEMBERS, PROFILES, "delete from members", "user:1:orgs", refused=KINDS
    ),
    "another query": Change(QUERY, OTHER_QUERY, refused=("supabase",)),
    "a query added": Change(PROFILES, QUERY, refused=("supabase",)),
    "a query removed": Change(QUERY, PROFILES),
    "a table renamed": Change(
        PROFILES,
        PEOPLE,
        "update people set version = version + 1",
        ddl="alter table profiles rename to people",
        refused=KINDS,
    ),
    "a table moved to another schema": Change(
        PROFILES,
        PROFILES.replace("public.", "app."),
        "update app.profiles set version = version + 1",
        ddl="create schema app; alter table profiles set schema app",
        refused=KINDS,
    ),
}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check several times a second instead of twice a minute."""
    for name in ("REPEAT_EVERY", "LEAST_PAUSE"):
        monkeypatch.setattr(monitor, name, 0.1)


async def is_dropped(redis: Redis, key: str) -> None:
    async def gone() -> bool:
        return await redis.get(key) is None

    await eventually(gone, message=f"{key} is invalidated")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHANGES)
async def test_the_database_first(
    database: Database, redis_url: str, tmp_path: Path, kind: str, name: str
) -> None:
    """The worker goes on with the old rules: what they own goes, by key or by pattern, until its restart."""
    change = CHANGES[name]
    async with (
        connected(database.dsn) as db,
        redis_at(redis_url) as redis,
        way(kind, database) as there,
    ):
        await db.execute(TABLES)
        await push(database, change.old, tmp_path)
        async with there.worker(redis_url, rules=change.old):
            await db.execute(change.ddl)
            await push(database, change.new, tmp_path)
            for _ in range(2):
                key = change.key if change.old != QUERY else "user:2:profile"
                await redis.set(key, '"old"', ex=600)
                await db.execute(change.write)
                await is_dropped(redis, key)
        old, new = (PublishedRules.decode(Rules.parse(text).published()) for text in (change.old, change.new))
        dropped = set(difference(old, new).dropped)
        if change.new == FILTERED:
            dropped.add("user:*:profile")  # the captures left out what the old rules count
        found = {pattern.replace("*", "1"): pattern for pattern in {*old.patterns, *new.patterns}}
        await redis.mset(dict.fromkeys(found, '"cached"'))
        async with there.worker(redis_url, rules=change.new) as worker:
            for key, pattern in found.items():
                assert await redis.get(key) == (None if pattern in dropped else b'"cached"'), pattern
            assert not worker.status().not_captured
        await redis.flushdb()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHANGES)
async def test_the_worker_first(
    database: Database, redis_url: str, tmp_path: Path, kind: str, name: str
) -> None:
    """With rules that the database cannot serve yet a worker does not lead, so agents detach."""
    change = CHANGES[name]
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, way(kind, database) as there:
        await db.execute(TABLES)
        await push(database, change.old, tmp_path)
        if kind in change.refused:
            settings = {**there.settings}
            dsn = settings.pop("database_url")
            worker = Worker(settings_for(dsn, redis_url, **settings), Rules.parse(change.new))
            with pytest.raises(MigrationMissing, match="unstale migration"):
                await worker.run(stop=asyncio.Event())
            return
        async with there.worker(redis_url, rules=change.new):
            key = "user:1:profile"
            await redis.set(key, '"old"', ex=600)
            await db.execute("update profiles set name = name || '!'")
            await is_dropped(redis, key)
            await db.execute(change.ddl)
            await push(database, change.new, tmp_path)
            await redis.set(key, '"old"', ex=600)
            await db.execute("update profiles set name = name || '!'")
            await is_dropped(redis, key)

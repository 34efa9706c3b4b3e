"""``unstale audit --shadow``: how stale a cache is today, before unstale is adopted; nothing is installed."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import asyncpg
import pytest

from servers import Database, eventually
from unstale_worker.audit.shadow import shadowing
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.rules import Rules
from workers import connected, redis_at, settings_for
from workers.commands import run

pytestmark = pytest.mark.leaves_keys("user:.*")

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[refresh."user:{id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"
columns = ["name"]
"""
SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles select n, 'a' from generate_series(1, 4) as n;
"""
KEYS = [f"user:{n}:profile" for n in range(1, 5)]
LOADER = "user:{id}:profile"


async def test_a_cache_that_only_has_a_ttl_is_measured(
    empty_database: Database, valkey: EmbeddedValkey
) -> None:
    async with connected(empty_database.dsn) as db, redis_at(valkey.url) as redis:
        await db.execute(SCHEMA)
        for key in KEYS[:3]:
            await redis.set(key, '{"name":"a"}', px=600_000)
        await redis.set(KEYS[3], '{"other":1}')  # another loader's
        await redis.set("session:1", "x", px=600_000)
        stop = asyncio.Event()
        async with shadowing(
            settings_for(empty_database.dsn, valkey.url), Rules.parse(RULES), tick=0.05
        ) as shadow:
            seen = shadow.seen[LOADER]
            task = asyncio.create_task(shadow.run(stop))
            await eventually(lambda: seen.looks > 20)
            assert seen.stale == 0
            await db.execute("update public.profiles set name = 'b' where id in (1, 2)")
            await eventually(lambda: seen.longest > 0.1)
            await redis.set(KEYS[0], '{"name":"b"}', px=600_000)  # as a reader does once the TTL is over
            await redis.delete(KEYS[1])
            await eventually(lambda: seen.periods == 2)
            stop.set()
            await task
        figures = shadow.as_dict()["loaders"]
        assert isinstance(figures, dict)
        found = figures[LOADER]
        assert 0 < found["stale_share"] < 1
        assert "other fields" in next(iter(found["refused"]))
        assert found["stale_for_s"]["longest"] >= found["stale_for_s"]["p50"] >= 0
        assert any("stale value" in line for line in shadow.lines())


async def test_the_command_needs_nothing_but_select_and_reading(
    empty_database: Database, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()
    (acl,) = re.findall(r"^ACL SETUSER unstale-shadow .+$", page, re.MULTILINE)
    (tmp_path / "unstale.toml").write_text(RULES)
    servers = {
        "DATABASE_URL": re.sub("//.*?@", "//shadow_reader:password@", empty_database.dsn),
        "REDIS_URL": f"redis://unstale-shadow:password@127.0.0.1:{valkey.port}/0",
    }
    async with connected(empty_database.superuser_dsn) as db, redis_at(valkey.url) as redis:
        await db.execute(SCHEMA + "create role shadow_reader login password 'password';")
        try:
            await redis.execute_command(*acl.split())
            words = ("audit", "--shadow", "--for", "2s", "--json")
            refused = await asyncio.to_thread(run, *words, cwd=tmp_path, settings=servers)
            assert refused.code == 2
            assert "permission denied for table profiles" in refused.err
            await db.execute("grant select on public.profiles to shadow_reader")
            nothing = await asyncio.to_thread(run, *words, cwd=tmp_path, settings=servers)
            assert (nothing.code, json.loads(nothing.out)["looks"]) == (1, 0)
            await redis.set(KEYS[0], '{"name":"old"}', px=600_000)
            await redis.set(KEYS[1], '{"name":"a"}', px=600_000)
            before = await redis.info("persistence")
            done = await asyncio.to_thread(run, *words, cwd=tmp_path, settings=servers)
            after = await redis.info("persistence")
            assert done.code == 0, done.err
            result = json.loads(done.out)
            assert 2 * result["stale"] == result["looks"] > 0
            assert after["rdb_changes_since_last_save"] == before["rdb_changes_since_last_save"]
            async with connected(servers["DATABASE_URL"]) as reader:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await reader.execute("update public.profiles set name = 'x'")
        finally:
            await db.execute("drop owned by shadow_reader; drop role shadow_reader")

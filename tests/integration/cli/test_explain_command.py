"""``unstale explain`` beside a worker: it names exactly the keys that the change then removes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from servers import Database
from workers import applied, connected, redis_at, running_worker
from workers.commands import run

pytestmark = pytest.mark.leaves_keys("(user|flag|ref):.*")

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "flag:{flag}", "ref:{ref}"]

[[watch]]
table = "public.profiles"
keys = ["user:{user_id}:settings"]
query = "select user_id from public.members where org_id = {id}"
"""
SCHEMA = """
create table public.profiles (id bigint primary key, flag bool, ref uuid, name text);
create table public.members (org_id bigint, user_id bigint);
insert into public.members values (42, 7), (42, 8), (43, 9);
select unstale.watch('public.profiles', '{flag,id,ref}');
grant select on public.members to unstale_worker;
"""
ROW = {"id": 42, "flag": True, "ref": "7f1f7c2e-0000-4000-8000-00000000002a", "name": "ann"}
OTHERS = ["user:43:profile", "user:9:settings", "flag:False"]


async def test_it_names_the_keys_that_the_change_removes(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "unstale.toml").write_text(RULES)
    settings = {"DATABASE_URL": database.dsn, "REDIS_URL": redis_url}
    async with connected(database.dsn) as connection, redis_at(redis_url) as redis:
        await connection.execute(SCHEMA)
        command = ("explain", "public.profiles", json.dumps(ROW))
        found = await asyncio.to_thread(run, *command, "--json", cwd=tmp_path, settings=settings)
        assert found.code == 0, found.err
        rules = json.loads(found.out)["rules"]
        assert [rule["line"] for rule in rules] == [2, 6]
        assert rules[1]["arguments"] == [{"id": "42"}]
        keys = {effect["key"] for rule in rules for effect in rule["keys"]}
        assert {"user:7:settings", "user:8:settings", "flag:True"} < keys
        async with running_worker(database.dsn, redis_url, rules=RULES):
            await redis.mset(dict.fromkeys([*keys, *OTHERS], "1"))
            await connection.execute(
                "insert into public.profiles select * from json_populate_record(null::public.profiles, $1)",
                json.dumps(ROW),
            )
            await applied(redis, connection)
            assert await redis.exists(*keys) == 0
            assert await redis.exists(*OTHERS) == len(OTHERS)
            few = ("explain", "public.profiles")
            rest, none, other = [
                await asyncio.to_thread(run, *few, row, cwd=tmp_path, settings=settings)
                for row in ('{"id": 42}', '{"id": 77}', '{"flag": true}')
            ]
        shown = await asyncio.to_thread(run, *command, cwd=tmp_path, settings=settings)
    assert f'read from the database: flag = true, ref = "{ROW["ref"]}"' in rest.out, rest.err
    assert all(key in rest.out for key in keys)
    assert "the database has no row of public.profiles with id = 77" in none.out, none.err
    assert "key      user:77:profile" in none.out
    assert "unknown  flag:{flag}  needs flag, which the row lacks" in none.out
    assert "key      flag:True" in other.out, other.err
    assert "unknown  user:{user_id}:settings  needs id, which the row lacks" in other.out
    assert "unstale.toml:6  public.profiles" in shown.out
    assert "query    select user_id from public.members where org_id = {id}" in shown.out

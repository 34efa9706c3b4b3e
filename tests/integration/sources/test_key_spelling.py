"""Keys in another spelling than changes remove are refused, over both sources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from servers import Database, eventually
from servers.both_sources import KINDS, Way, push, way
from unstale import Cache
from unstale.companion.tools.tools import Tools
from unstale.errors import ToolError
from workers import connected
from workers.double import attached_cache, open_cache

ID = UUID("3f0c8a5e-0d1b-4c6f-9a2e-ABCDEFABCDEF")
RIGHT = f"user:{ID}:profile"

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "number:{number}", "flag:{flag}:{label}", "group:{owner}:x"]

[[watch]]
table = "public.organizations"
keys = ["user:{user_id}:settings"]
query = "select user_id from public.members where org_id = {id}"

[ttl]
"*" = "1h"
"""

TABLES = """
create domain public.owner as uuid;
create table public.profiles (
    id uuid primary key, number bigint, flag boolean, label text, owner public.owner, name text
);
create table public.organizations (id int primary key, name text);
create table public.members (org_id int, user_id uuid);
insert into public.profiles
values ('3f0c8a5e-0d1b-4c6f-9a2e-abcdefabcdef', 7, true, 'Ä:b', '3f0c8a5e-0d1b-4c6f-9a2e-abcdefabcdef',
    'old');
insert into public.organizations values (1, 'old');
insert into public.members values (1, '3f0c8a5e-0d1b-4c6f-9a2e-abcdefabcdef');
"""


@pytest.fixture(params=KINDS)
async def source(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> AsyncIterator[Way]:
    async with connected(database.dsn) as db:
        await db.execute(TABLES)
    await push(database, RULES, tmp_path)
    async with way(request.param, database) as source:
        yield source


async def test_another_spelling_is_refused_and_the_right_one_is_kept_true(
    source: Way, database: Database, redis_url: str
) -> None:
    right = [RIGHT, "number:7", "flag:True:Ä:b", f"group:{ID}:x", f"user:{ID}:settings"]
    wrong = {
        f"user:{str(ID).upper()}:profile": RIGHT,
        f"user:{ID.hex}:profile": RIGHT,
        f"user:{{{ID}}}:profile": RIGHT,
        f"user:{ID.urn}:profile": RIGHT,
        "number:007": "number:7",
        "number:+7": "number:7",
        "number:7.0": "number:7",
        "number: 7": "number:7",
        "flag:true:Ä:b": "flag:True:Ä:b",
        "flag:1:x": "flag:True:x",
        "flag:f:x": "flag:False:x",
        f"group:{str(ID).upper()}:x": f"group:{ID}:x",
        f"user:{str(ID).upper()}:settings": f"user:{ID}:settings",
    }
    async with source.worker(redis_url, rules=RULES), attached_cache(redis_url) as cache:
        for key, meant in wrong.items():
            for call in (
                cache.get_or_load(key, lambda: "old"),
                cache.get(key),
                cache.set(key, "old"),
                cache.delete(key),
                cache.get_many([key], lambda keys: dict.fromkeys(keys, "old")),
                cache.get_many([key]),
                cache.audit(key, lambda: "old"),
            ):
                with pytest.raises(ValueError, match="use that spelling") as refused:
                    await call
                assert repr(meant) in str(refused.value)
        assert not cache.inspect().local.near
        for key in right:
            assert await cache.get_or_load(key, lambda: "old") == "old"
        async with connected(database.dsn) as db:
            await db.execute("update public.profiles set name = 'new'")
            await db.execute("update public.organizations set name = 'new'")
        for key in right:
            await eventually(lambda key=key: _holds(cache, key, "new"))  # type: ignore[misc]


async def _holds(cache: Cache, key: str, value: str) -> bool:
    return bool(await cache.get_or_load(key, lambda: value) == value)


async def test_what_no_row_can_have_is_cached_like_a_key_without_a_rule(
    source: Way, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with source.worker(redis_url, rules=RULES), attached_cache(redis_url) as cache:
        for key in ("user:guest:profile", "number:seven", "flag:maybe:x"):
            assert await cache.set(key, "value")
            assert not cache.inspect().rules.owns(key)
            assert f"{key!r} looks like one of a rule, but no row can have it" in caplog.text


async def test_tools_and_patterns_refuse_another_spelling(source: Way, redis_url: str) -> None:
    async with source.worker(redis_url, rules=RULES), attached_cache(redis_url) as cache:
        for pattern in (f"user:{str(ID).upper()}:*", f"user:{ID.hex}*", "number:007", "number:+7*"):
            with pytest.raises(ValueError, match="changes write the value differently"):
                await cache.invalidate_pattern(pattern)
            with pytest.raises(ValueError, match="changes write the value differently"):
                async with cache.subscribe(pattern):
                    pass
        for pattern in (f"user:{ID}:*", "user:*", "number:7*", "user:3F*", "other:007", "*"):
            await cache.invalidate_pattern(pattern)
        tools = Tools(cache, user_id=str(ID).upper(), loaders={"profile": lambda: "old"})
        for name, arguments in (
            ("invalidateCache", {"pattern": "*"}),
            ("clearUserCache", {}),
            ("refreshCache", {"key": "profile"}),
        ):
            with pytest.raises(ToolError, match=str(ID)):
                await tools.run(name, arguments)
        await Tools(cache, user_id=ID, loaders={}).run("clearUserCache")


async def test_types_that_change_reach_attached_agents_with_the_next_term(
    source: Way, database: Database, redis_url: str
) -> None:
    async with source.worker(redis_url, rules=RULES), attached_cache(redis_url) as cache:
        with pytest.raises(ValueError, match="number:7"):
            await cache.get("number:007")
    async with connected(database.dsn) as db:
        await db.execute("alter table public.profiles alter column number type text")
    async with open_cache(redis_url) as cache, source.worker(redis_url, rules=RULES):
        await eventually(lambda: cache.attached)
        assert await cache.get_or_load("number:007", lambda: "value") == "value"

"""``unstale why`` and ``unstale explain`` name the tags of values, and what invalidated them."""

import asyncio
from pathlib import Path

from servers import Database
from unstale.protocol.names import Names
from unstale.protocol.tags import record
from unstale_worker.rules import Rules
from unstale_worker.tracing.why import why
from workers import applied, connected, redis_at, running_worker
from workers.commands import run
from workers.double import Loader, attached_cache

RULES = """
[[watch]]
table = "public.memories"
keys = ["memory:{id}"]
tags = ["user:{user_id}:memories"]
"""
SCHEMA = """
create table public.memories (id bigint primary key, user_id text, content text);
select unstale.watch('public.memories', '{id,user_id}');
insert into public.memories values (1, '1', 'a');
"""
TAG, KEY = "user:1:memories", "search:1:cats"


async def test_tags_are_named(database: Database, redis_url: str, tmp_path: Path) -> None:
    """By the change that invalidated them, for the tag itself and for each value that carries it."""
    (tmp_path / "unstale.toml").write_text(RULES)
    rules, settings = Rules.parse(RULES), {"DATABASE_URL": database.dsn, "REDIS_URL": redis_url}

    async def command(*arguments: str) -> str:
        ended = await asyncio.to_thread(run, *arguments, cwd=tmp_path, settings=settings)
        assert ended.code == 0, ended.err
        return ended.out

    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES), attached_cache(redis_url) as cache:
            await applied(redis, db)
            await cache.get_or_load(KEY, Loader("found"), tags=[TAG, "model"])
            await db.execute("update public.memories set content = 'b'")
            await applied(redis, db)
            for name in (KEY, record(TAG)):
                found = await why(redis, Names(), rules, name, most=10)
                (removal,) = found.removals
                assert (removal.table, removal.operation) == ("public.memories", "update")
                assert removal.tag == (TAG if name == KEY else None)
                assert found.tags == (("model", TAG) if name == KEY else ())
            assert f"stored under the tags model, {TAG}" in (text := await command("why", KEY))
            assert f"by the tag {TAG}" in text
            text = await command("why", "--tag", TAG)
            assert f"tag {TAG}: missing in Redis" in text
            assert "made by tag user:{user_id}:memories at unstale.toml:2" in text
            await cache.invalidate_tag(TAG)
            assert "cache.invalidate_tag" in await command("why", "--tag", TAG)

        text = await command("explain", "public.memories", '{"id": 7, "user_id": "8"}')
        assert "key      memory:7" in text
        assert "tag      user:8:memories  every value stored with it" in text
        text = await command("explain", "public.memories", f'{{"id": 7, "user_id": "{"x" * 600}"}}')
        assert "pattern  user:*:memories  (of tags)" in text
        (tmp_path / "unstale.toml").write_text(RULES.replace("{user_id}:memories", "{user_id}:memos"))
        text = await command("plan")
        assert "tag user:*:memories" in text
        assert "tag user:*:memos" in text

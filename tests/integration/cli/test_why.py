"""``unstale why``: for each planted cause it names the table, the operation, the transaction and the rule."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from servers import Database
from unstale import Cache
from unstale.protocol.names import Names
from unstale_worker.rules import Rules
from unstale_worker.tracing.why import Removal, Why, why
from workers import Listener, applied, connected, redis_at, running_worker
from workers.commands import run
from workers.double import attached_cache

pytestmark = pytest.mark.leaves_keys("(user|org|session|task).*")

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:greeting"]

[[watch]]
table = "public.organizations"
keys = ["user:{user_id}:settings"]
query = "select user_id from public.members where org_id = {id}"

[[watch]]
table = "public.tasks"
keys = ["task:{name}"]

[refresh."user:{id}:greeting"]
loader = "row"
table = "public.profiles"
key = {id = "id"}
"""
SCHEMA = """
create table public.profiles (id bigint primary key, name text);
create table public.organizations (id bigint primary key, name text);
create table public.members (org_id bigint, user_id bigint);
create table public.tasks (name text primary key, note text);
insert into public.organizations select n, 'o' from generate_series(1, 10) n;
insert into public.members select n / 10 + 1, n from generate_series(0, 99) n;
insert into public.profiles select n, 'a' from generate_series(1, 400) n;
select unstale.watch('public.profiles', '{id}');
select unstale.watch('public.organizations', '{id}');
select unstale.watch('public.tasks', '{name}');
grant select on public.members to unstale_worker;
grant select on public.profiles to unstale_worker;
"""
XID = "select pg_current_xact_id()::text::bigint"


class Stage:
    """A worker, its database, and the question."""

    def __init__(self, db: asyncpg.Connection, redis: Redis) -> None:
        self.db, self.redis, self.rules = db, redis, Rules.parse(RULES)

    async def change(self, *statements: str, given: tuple[str, ...] = ()) -> int:
        """Run statements in one transaction; return its id."""
        async with self.db.transaction():
            for statement in statements:
                await self.db.execute(statement, *given)
            xid: int = await self.db.fetchval(XID)
        return xid

    async def ask(self, key: str, *, most: int = 10) -> Why:
        return await why(self.redis, Names(), self.rules, key, most=most)

    async def last(self, key: str) -> Removal:
        await applied(self.redis, self.db)
        return (await self.ask(key)).removals[0]


async def test_it_names_the_cause_of_every_key(database: Database, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "unstale.toml").write_text(RULES)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        stage = Stage(db, redis)
        async with running_worker(database.dsn, redis_url, rules=RULES), Listener(redis_url) as listener:
            await applied(redis, db)
            before = await stage.ask("user:1:profile")
            assert before.recovered is not None
            assert before.recovered.why == "no position"
            assert [owner.template for owner in before.owners] == ["user:{id}:profile"]
            await changes(stage)
            await many_at_once(stage, database.dsn)
            await annotated(stage)
            async with attached_cache(redis_url) as cache:
                await calls(stage, cache)
            await shown(stage, tmp_path, {"DATABASE_URL": database.dsn, "REDIS_URL": redis_url})
    assert "user:8:profile" in listener.keys
    assert not any(b"r-17" in payload for payload in listener.payloads)  # reasons stay in the log


async def changes(stage: Stage) -> None:
    """Check one change of each operation, a key changed twice, and a whole table."""
    for statement, operation in (
        ("update profiles set name = 'b' where id = 7", "update"),
        ("delete from profiles where id = 7", "delete"),
        ("insert into profiles values (7, 'c')", "insert"),
    ):
        xid = await stage.change(statement)
        found = await stage.last("user:7:profile")
        assert (found.kind, found.table, found.operation) == ("changes", "public.profiles", operation)
        assert (found.xid, found.lines, found.pattern) == (xid, (2,), None)
        assert found.read_ms is not None
        assert found.applied_ms is not None
        assert found.committed_after_ms is not None
        assert found.committed_after_ms <= found.read_ms <= found.applied_ms
    history = await stage.ask("user:7:profile")
    assert [removal.operation for removal in history.removals] == ["insert", "delete", "update"]
    assert not history.more
    assert (await stage.ask("user:7:profile", most=2)).more
    assert (await stage.ask("user:7:greeting")).refresh_line == 15
    xid = await stage.change("truncate tasks")
    found = await stage.last("task:any")
    assert (found.pattern, found.table, found.operation) == ("task:*", "public.tasks", "truncate")
    assert (found.xid, found.lines) == (xid, (11,))
    xid = await stage.change("select unstale.watch('public.tasks', '{name}')")
    found = await stage.last("task:any")
    assert (found.xid, found.operation, found.pattern) == (xid, "change", "task:*")
    hostile = 'a"b\\c:*'
    xid = await stage.change("insert into tasks values ($1)", given=(hostile,))
    assert (await stage.last(f"task:{hostile}")).xid == xid


async def many_at_once(stage: Stage, dsn: str) -> None:
    """Check 200 transactions of several tables, many of them in one batch, and one of many rows."""
    connections = await asyncio.gather(*(asyncpg.connect(dsn) for _ in range(8)))
    wanted: dict[str, tuple[str, int]] = {}

    async def write(number: int) -> None:
        own = connections[number]
        for step in range(25):
            row = 100 + number * 25 + step
            async with own.transaction():
                if step % 5 == 4:
                    org = 1 + (number * 5 + step // 5) % 10
                    # Ids are given before an update waits for its row: it may commit in another order.
                    await own.execute("select pg_advisory_xact_lock($1)", org)
                    await own.execute("update organizations set name = name || 'x' where id = $1", org)
                    keys = [f"user:{user}:settings" for user in range((org - 1) * 10, org * 10)]
                    table = "public.organizations"
                else:
                    await own.execute("update profiles set name = 'many' where id = $1", row)
                    keys, table = [f"user:{row}:profile", f"user:{row}:greeting"], "public.profiles"
                xid = await own.fetchval(XID)
            for key in keys:  # later transactions of one organization have larger ids
                if xid > wanted.get(key, ("", 0))[1]:
                    wanted[key] = (table, xid)

    await asyncio.gather(*(write(number) for number in range(8)))
    await asyncio.gather(*(connection.close() for connection in connections))
    xid = await stage.change("update profiles set name = 'all' where id between 50 and 99")
    wanted |= {f"user:{row}:profile": ("public.profiles", xid) for row in range(50, 100)}
    await applied(stage.redis, stage.db)
    wrong = {}
    for key, (table, xid) in wanted.items():
        found = (await stage.ask(key, most=1)).removals[0]
        if (found.table, found.operation, found.xid) != (table, "update", xid):
            wrong[key] = (found, table, xid)
    assert not wrong
    assert len(wanted) > 450


async def annotated(stage: Stage) -> None:
    """Check annotations: one, several, one rolled back, one too long, and none of another transaction."""
    first = "update profiles set name = 'y' where id = 8"
    await stage.change("""select unstale.because('{"request": "r-17"}')""", first)
    assert (await stage.last("user:8:profile")).annotation == {"request": "r-17"}
    await stage.change(first)
    assert (await stage.last("user:8:profile")).annotation is None
    await stage.change(
        """select unstale.because('{"request": "r-18"}')""",
        first,
        """select unstale.because('{"actor": "support"}')""",
        "savepoint a",
        """select unstale.because('{"actor": "nobody"}')""",
        "rollback to a",
    )
    assert (await stage.last("user:8:profile")).annotation == {"request": "r-18", "actor": "support"}
    await stage.change("select unstale.because(jsonb_build_object('a', repeat('x', 2000)))", first)
    assert (await stage.last("user:8:profile")).annotation == {"left out": "2009 bytes"}
    for wrong in ("'[1]'", "'1'", "null"):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="takes a JSON object"):
            await stage.change(f"select unstale.because({wrong})")
    await stage.change("""select unstale.because('{"changes": "nothing"}')""")
    await applied(stage.redis, stage.db)


async def calls(stage: Stage, cache: Cache) -> None:
    """Check what agents do, each with the process that did it."""
    await cache.delete("user:9:profile")
    await cache.invalidate_pattern("user:1?:profile")
    await cache.set("session:9", "text", ttl=3_600)
    for key, kind in (("user:9:profile", "delete"), ("user:11:profile", "pattern"), ("session:9", "set")):
        found = (await stage.ask(key)).removals[0]
        assert (found.kind, found.table) == (kind, None)
        assert found.process is not None
        assert found.process.endswith(f":{os.getpid()}")
    free = await stage.ask("session:9")
    assert (free.owners, free.content) == ((), "value")
    assert 3_000_000 < (free.expires_in_ms or 0) <= 3_600_000


async def shown(stage: Stage, folder: Path, settings: dict[str, str]) -> None:
    """Check the command's output, also for keys that no rule owns."""

    async def command(*arguments: str) -> str:
        ended = await asyncio.to_thread(run, "why", *arguments, cwd=folder, settings=settings)
        assert ended.code == 0, ended.err
        return ended.out

    text = await command("user:8:profile")
    assert "made by user:{id}:profile at unstale.toml:2" in text
    assert '    because    {"left out":"2009 bytes"}' in text
    assert "where the log begins" in text
    assert "every key of the rules was dropped: no position" in text
    assert "did you mean user:{id}:profile?" in await command("user:8:profil")
    none = json.loads(await command("user:399:profile", "--json"))
    assert (none["removals"], none["same_rules"], none["content"]) == ([], True, "missing")

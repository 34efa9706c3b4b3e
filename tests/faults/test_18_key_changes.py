"""18: TRUNCATE, a changed key column, a deleted row, a null in a key, a direct insert into a partition.

Guards: captures take keys from old *and* new rows, one per statement and operation, on every leaf
partition; TRUNCATE invalidates the pattern (`unstale.describe`, `Template` nulls).
"""

from typing import Any

import asyncpg
import pytest

from servers import Database
from unstale.protocol.codec import is_value
from unstale.runtime import failpoints
from workers import Listener, applied, connected, redis_at, running_worker, state_of

RULES = """
[[watch]]
table = "public.notes"
keys = ["notes:{owner}", "note:{id}"]

[[watch]]
table = "public.events"
keys = ["events:{owner}"]
"""

TABLES = """
create table public.notes (id int primary key, owner text, body text);
create table public.events (id int, owner text, day int) partition by range (day);
create table public.events_1 partition of public.events for values from (0) to (10);
create table public.events_2 partition of public.events for values from (10) to (20) partition by range (id);
create table public.events_2a partition of public.events_2 for values from (0) to (1000);
select unstale.watch('public.notes', '{id,owner}');
select unstale.watch('public.events', '{owner}');
insert into notes values (1, 'ann', 'x'), (2, 'bob', 'x'), (3, null, 'x');
insert into events values (1, 'ann', 1), (2, 'bob', 11);
"""

CASES = {
    "delete": ("delete from notes where id = 1", {"notes:ann", "note:1"}),
    "key column": ("update notes set owner = 'cid' where id = 1", {"notes:ann", "notes:cid", "note:1"}),
    "primary key": ("update notes set id = 9 where id = 2", {"note:2", "note:9", "notes:bob"}),
    "to null": ("update notes set owner = null where id = 1", {"notes:ann", "note:1"}),
    "from null": ("update notes set owner = 'dan' where id = 3", {"notes:dan", "note:3"}),
    "null stays": ("update notes set body = 'y' where id = 3", {"note:3"}),
    "upsert": (
        "insert into notes values (1, 'eve', 'z') on conflict (id) do update set owner = excluded.owner",
        {"notes:ann", "notes:eve", "note:1"},
    ),
    "merge": (
        "merge into notes n using (values (2)) v(id) on n.id = v.id when matched then delete",
        {"notes:bob", "note:2"},
    ),
    "copy": ("COPY", {"note:7", "notes:fay"}),
    "partition": ("insert into events_1 values (3, 'gil', 2)", {"events:gil"}),
    "leaf of a partition": ("insert into events_2a values (4, 'hal', 12)", {"events:hal"}),
    "moved between partitions": ("update events set day = 15 where id = 1", {"events:ann"}),
    "replica role": (
        "set session_replication_role = replica; update notes set body = 'r' where id = 1; "
        "reset session_replication_role",
        {"note:1", "notes:ann"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_every_key_of_old_and_new_rows(database: Database, redis_url: str, case: str) -> None:
    statement, expected = CASES[case]
    dsn = database.superuser_dsn if case == "replica role" else database.dsn
    async with (
        connected(database.dsn) as db,
        connected(dsn) as writer,
        redis_at(redis_url) as redis,
        Listener(redis_url) as heard,
    ):
        await db.execute(TABLES)
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            await write(writer, statement)
            await applied(redis, db)
            await heard.caught_up(redis)
            assert set(heard.keys) == expected
            assert heard.patterns == []


async def write(writer: asyncpg.Connection, statement: str) -> None:
    """Run it; COPY is a protocol of its own."""
    if statement == "COPY":
        await writer.copy_records_to_table("notes", records=[(7, "fay", "c")])
    else:
        await writer.execute(statement)


@pytest.mark.parametrize("table", ["events", "events_2", "events_2a"])
async def test_truncate_of_a_table_or_of_a_partition(database: Database, redis_url: str, table: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(TABLES)
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            await redis.set("events:zoe", "1", ex=60)
            await redis.set("notes:zoe", "1", ex=60)
            await db.execute(f"truncate {table}")
            await applied(redis, db)
            await heard.caught_up(redis)
            assert set(heard.patterns) == {"events:*"}
            zoes: Any = await redis.get("notes:zoe")
            assert is_value(zoes or b"")
            assert await redis.get("events:zoe") is None


@pytest.mark.parametrize("step", ["applier.after_drop", "applier.before_recover"])
async def test_need_lsn_is_raised_before_a_pattern_is_dropped(
    database: Database, redis_url: str, step: str
) -> None:
    """A lease taken behind the SCAN stays; its loader must already be told not to read an older replica.

    Guards: ``drop.lua``. The model calls it NEED_LSN_BEFORE_DROP.
    """
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(TABLES)
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            with failpoints.armed(step, hold=True) as point:
                if step == "applier.after_drop":
                    await db.execute("truncate notes")
                else:
                    await db.execute("create table unwatched ()")
                lsn = await db.fetchval("select pg_current_wal_lsn()::text")
                if step == "applier.before_recover":
                    await redis.hdel("{unstale:0}:state", "position")
                await point.wait()
                need = (await state_of(redis))["need_lsn"]
                assert await db.fetchval("select $1::text::pg_lsn >= $2::text::pg_lsn", need, lsn)
            await applied(redis, db)

"""19: DDL under the captures: a column that a rule uses is dropped or renamed, a table is dropped, renamed,
rewritten.

Guards: the event triggers of ``unstale_follow_ddl`` and `unstale.generate`: the user's writes go on, and
what cannot be told row by row any more invalidates the pattern. Without event triggers the user's writes
fail, as is shown.
"""

import asyncpg
import pytest

from faults.stage import key_of
from servers import Database
from workers import PROFILES, SCHEMA, Listener, applied, connected, redis_at, running_worker

ROWS = "insert into public.profiles select g, 'x', 1 from generate_series(1, 5) g"
OTHER_COLUMN = SCHEMA.replace("'{id}'", "'{id,name}'")
BY_NAME = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "name:{name}"]
"""


@pytest.mark.parametrize("defended", [True, False])
async def test_a_key_column_is_dropped_and_writes_go_on(
    database: Database, redis_url: str, defended: bool
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(OTHER_COLUMN + ROWS)
        if not defended:
            async with connected(database.superuser_dsn) as owner:
                await owner.execute("drop event trigger unstale_ddl; drop event trigger unstale_drop")
        async with running_worker(database.worker_dsn, redis_url, rules=BY_NAME):
            await redis.mset({"name:x": "1", key_of(1): "1"})
            await db.execute("alter table profiles drop column name")
            if not defended:
                with pytest.raises(asyncpg.UndefinedColumnError):
                    await db.execute("update profiles set version = 2 where id = 1")
                await redis.delete("name:x", key_of(1))
                return
            await applied(redis, db)
            assert await redis.mget("name:x", key_of(1)) == [None, None]
            await heard.caught_up(redis)
            assert {"name:*", "user:*:profile"} <= set(heard.patterns)
            await redis.set(key_of(1), "1", ex=60)
            await db.execute("update profiles set version = 2 where id = 1")
            await applied(redis, db)
            assert await redis.get(key_of(1)) is None


TYPES = """
create schema home;
create schema kinds;
create type kinds.mood as enum ('calm', 'loud');
create domain kinds.age as int;
create function kinds.of(int) returns int language sql as 'select 1';
"""
TYPED = """;
alter table public.profiles add column mood kinds.mood not null default 'calm',
    add column age kinds.age default 7;
"""
DDL = {
    "add a column": ("alter table profiles add column more int", True),
    "add a column with a volatile default": (
        "alter table profiles add column r float default random()",
        True,
    ),
    "change a type": ("alter table profiles alter column version type text using 'v' || version", True),
    "rename a column": ("alter table profiles rename column version to revision", True),
    "rename the key column": ("alter table profiles rename column id to key", True),
    "rename the table": ("alter table profiles rename to people", False),
    "move the table": ("create schema elsewhere; alter table profiles set schema elsewhere", False),
    "rename a type": ("alter type kinds.mood rename to temper", True),
    "move a type": ("alter type kinds.mood set schema public", True),
    "add a value to a type": ("alter type kinds.mood add value 'new'", True),
    "rename a value of a type": ("alter type kinds.mood rename value 'calm' to 'quiet'", True),
    "rename the schema of a type": ("alter schema kinds rename to sorts", True),
    "rename a domain": ("alter domain kinds.age rename to years", True),
    "constrain a domain": ("alter domain kinds.age add check (value > 0)", True),
    "replace a function": (
        "create or replace function kinds.of(int) returns int language sql as 'select 2'",
        True,
    ),
    "add a trigger": (
        "create function kinds.note() returns trigger language plpgsql as 'begin return new; end'; "
        "create trigger note before update on profiles for each row execute function kinds.note()",
        True,
    ),
    "move by renaming the schema": ("alter schema home rename to moved", False),
}


@pytest.mark.parametrize("session", ["the same", "another"])
@pytest.mark.parametrize("case", DDL)
async def test_writes_go_on_and_nothing_is_lost(
    database: Database, redis_url: str, case: str, session: str
) -> None:
    """Also in a session that keeps the plans of statements and captures from before."""
    statement, same_name = DDL[case]
    table = {
        "rename the table": "people",
        "move the table": "elsewhere.profiles",
        "rename the schema of a type": "public.profiles",
        "move by renaming the schema": "moved.profiles",
    }.get(case, "profiles")
    column = "key" if case == "rename the key column" else "id"
    home = "home" if case == "move by renaming the schema" else "public"
    async with (
        connected(database.dsn) as db,
        connected(database.dsn) as writer,
        redis_at(redis_url) as redis,
    ):
        await db.execute(TYPES + (SCHEMA + ROWS + TYPED).replace("public.profiles", f"{home}.profiles"))
        rules = PROFILES.replace("public.profiles", f"{home}.profiles")
        async with running_worker(database.worker_dsn, redis_url, rules=rules):
            change = "update {} set name = $1 where {} = 1"
            for number in range(7):  # from the sixth on, a session keeps the plan
                await writer.execute(change.format(f"{home}.profiles", "id"), str(number))
            await applied(redis, db)
            await redis.set(key_of(1), "1", ex=60)
            await db.execute(statement)
            await applied(redis, db)
            for user in (1, 2):
                await redis.set(key_of(user), "1", ex=60)
            await (writer if session == "another" else db).execute(change.format(table, column), "y")
            await applied(redis, db)
            assert await redis.get(key_of(1)) is None
            assert (await redis.get(key_of(2)) == b"1") or not same_name


async def test_a_type_change_that_rewrites_values_drops_them(database: Database, redis_url: str) -> None:
    """``ALTER TYPE … USING`` changes what readers see and fires no trigger."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA + ROWS)
        async with running_worker(database.worker_dsn, redis_url):
            await redis.set(key_of(1), "1", ex=60)
            await db.execute("alter table profiles alter column version type bigint using version * 10")
            await applied(redis, db)
            assert await redis.get(key_of(1)) is None


async def test_a_table_that_is_dropped_and_made_again(database: Database, redis_url: str) -> None:
    """Dropping invalidates; a table of the same name is another one, and is watched anew."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA + ROWS)
        async with running_worker(database.worker_dsn, redis_url) as worker:
            await redis.set(key_of(1), "1", ex=60)
            await db.execute("drop table profiles")
            await applied(redis, db)
            assert await redis.get(key_of(1)) is None
            await db.execute(SCHEMA + ROWS)
            await redis.set(key_of(2), "1", ex=60)
            await db.execute("update profiles set name = 'y' where id = 2")
            await applied(redis, db)
            assert await redis.get(key_of(2)) is None
            assert worker.status().ready


async def test_ddl_that_is_rolled_back_changes_nothing(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA + ROWS)
        async with running_worker(database.worker_dsn, redis_url):
            change = db.transaction()
            await change.start()
            await db.execute("alter table profiles drop column name; drop table profiles")
            await change.rollback()
            await redis.set(key_of(1), "1", ex=60)
            await redis.set(key_of(2), "1", ex=60)
            await db.execute("update profiles set name = 'y' where id = 1")
            await applied(redis, db)
            assert await redis.mget(key_of(1), key_of(2)) == [None, b"1"]

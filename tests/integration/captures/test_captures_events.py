"""Each command that can change what a capture depends on: writes go on and are captured, or it is reported.

Postgres lists its commands' tags under "Event Trigger Firing Matrix". Of these, the ones below matter. The
others make or change what no capture names (functions, views, policies, types that no table has), or give a
table another index, comment or owner.
"""

# ruff: noqa: S608  (the names in these statements are the test's own)

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg
import pytest

from servers import Database
from servers.outbox import changes, connected, position

ELSEWHERE = """
create extension postgres_fdw;
create server elsewhere foreign data wrapper postgres_fdw;
grant usage on foreign server elsewhere to postgres;
"""

SCHEMA = """
create schema app;
create type app.mood as enum ('up', 'down');
create type app.size as (x int, y int);
create domain app.moods as app.mood;
create table logs (
    id int, day int, mood app.mood default 'up', domained app.moods default 'up', size app.size, note text,
    primary key (id, day)
) partition by list (day);
create table logs1 partition of logs for values in (1);
create table logs2
    (id int not null, day int not null, mood app.mood, domained app.moods, size app.size, note text);
create table parent (id int, day int, mood app.mood, domained app.moods, size app.size, note text)
    partition by range (day);
"""


class Case(NamedTuple):
    """A command, a write after it, and the findings that may follow it."""

    command: str
    write: str = "insert into logs1 (id, day) values (7, 1)"
    key: str = "7"


CASES = {
    "CREATE TABLE": Case(
        "create table l9 partition of logs for values in (9)", "insert into l9 (id, day) values (7, 9)"
    ),
    "CREATE TABLE, partitioned": Case(
        "create table l9 partition of logs for values in (9) partition by list (id); "
        "create table l97 partition of l9 for values in (7)",
        "insert into l97 (id, day) values (7, 9)",
    ),
    "CREATE SCHEMA": Case(
        "create schema s create table l9 partition of public.logs for values in (9)",
        "insert into s.l9 (id, day) values (7, 9)",
    ),
    "CREATE FOREIGN TABLE": Case(
        "create foreign table l9 partition of logs for values in (9) server elsewhere"
    ),
    "ALTER FOREIGN TABLE": Case(
        "create foreign table l9 (id int not null, day int not null, mood app.mood, domained app.moods, "
        "size app.size, note text) server elsewhere; alter foreign table l9 rename to l10; "
        "alter table logs attach partition l10 for values in (9); alter table logs detach partition l10"
    ),
    "ALTER TABLE, attach": Case(
        "alter table logs attach partition logs2 for values in (2)", "insert into logs2 values (7, 2)"
    ),
    "ALTER TABLE, attached": Case(
        "alter table parent attach partition logs for values from (0) to (100)",
        "insert into parent (id, day) values (7, 1)",
    ),
    "ALTER TABLE, column": Case("alter table logs rename column id to number",
                                "insert into logs1 (number, day) values (7, 1)"),
    "ALTER TABLE, type": Case("alter table logs alter column note type varchar(9)"),
    "ALTER TABLE, drop": Case("alter table logs drop column mood"),
    "ALTER TABLE, name": Case("alter table logs1 rename to l1", "insert into l1 (id, day) values (7, 1)"),
    "ALTER TABLE, schema": Case("alter table logs set schema app",
                                "insert into app.logs (id, day) values (7, 1)"),
    "ALTER TABLE, triggers": Case("alter table logs1 disable trigger user"),
    "ALTER TABLE, owner": Case("alter table logs owner to postgres"),
    "ALTER VIEW, column": Case("alter view logs rename column id to number",
                               "insert into logs1 (number, day) values (7, 1)"),
    "ALTER MATERIALIZED VIEW, column": Case("alter materialized view logs rename column id to number",
                                            "insert into logs1 (number, day) values (7, 1)"),
    "ALTER INDEX, name": Case("alter index logs rename to logbook",
                              "insert into logbook (id, day) values (7, 1)"),
    "ALTER TYPE, value": Case("alter type app.mood rename value 'up' to 'high'"),
    "ALTER TYPE, attribute": Case("alter type app.size drop attribute y"),
    "ALTER TYPE, name": Case("alter type app.mood rename to temper"),
    "ALTER DOMAIN": Case("alter domain app.moods rename to tempers; alter domain app.tempers drop not null"),
    "ALTER SCHEMA": Case("alter schema app rename to product"),
    "ALTER TRIGGER": Case("alter trigger unstale_1_insert on logs1 rename to mine"),
    "DROP TRIGGER": Case("drop trigger unstale_1_insert on logs1"),
    "DROP FUNCTION": Case("drop function unstale.capture_1_insert cascade"),
    "DROP TYPE": Case("drop type app.mood cascade"),
    "DROP DOMAIN": Case("drop domain app.moods cascade"),
    "DROP TABLE": Case("create table l9 partition of logs for values in (9); drop table l9"),
    "DROP SCHEMA": Case("create schema s create table l9 partition of public.logs for values in (9); "
                        "drop schema s cascade"),
    "DROP EXTENSION": Case("create foreign table l9 partition of logs for values in (9) server elsewhere; "
                           "drop extension postgres_fdw cascade"),
    "DROP OWNED": Case("create schema s create table l9 partition of public.logs for values in (9); "
                       "grant create on schema s to authenticated; grant authenticated to postgres; "
                       "alter table s.l9 owner to authenticated; drop owned by authenticated"),
    "CREATE RULE": Case("create rule quiet as on update to logs1 do instead nothing"),
    "CREATE TABLE AS": Case("create table copied as table logs; select * into more from logs"),
}  # fmt: skip

WATCHES = {"keys": "'{id}'", "filter": "'{id}', '{note,mood,domained,size}'"}


async def reported(connection: asyncpg.Connection) -> list[str]:
    """Errors of check(), except that nothing follows DDL."""
    rows = await connection.fetch("select finding from unstale.check() where severity = 'error'")
    return [row[0] for row in rows]


async def captured(connection: asyncpg.Connection, after: str, key: str) -> bool:
    entries = await changes(connection, after)
    return any(entry.keys is None or key in entry.keys for entry in entries)


@asynccontextmanager
async def stage(
    database: Database, case: str, watch: str
) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
    """Watch the table, write to it until plans are cached, run the command; give an observer and a writer."""
    command = CASES[case].command
    schema = SCHEMA
    async with connected(database.superuser_dsn) as superuser:
        if "foreign table" in command:
            await superuser.execute(ELSEWHERE)
            # A partitioned table with a primary key takes no foreign partition.
            schema = SCHEMA.replace(",\n    primary key (id, day)", "")
        async with connected(database.dsn) as connection, connected(database.dsn) as writer:
            await connection.execute("set client_min_messages = error")
            await connection.execute(schema)
            await connection.execute(f"select unstale.watch('logs', {WATCHES[watch]})")
            for statement in (
                "insert into logs (id, day) values (1, 1), (2, 1)",
                "update logs set note = 'x'",
            ):
                await writer.execute(statement)
            for part in command.split("; "):
                await (superuser if "extension" in part or "owned" in part else connection).execute(part)
            yield connection, writer


def cases(*without: str) -> list[tuple[str, str]]:
    """Each case, with a column filter where its primary key allows for the command."""
    return [
        (name, "keys" if "foreign table" in case.command else "filter")
        for name, case in CASES.items()
        if name not in without
    ]


@pytest.mark.parametrize(("case", "watch"), cases())
async def test_writes_are_captured_after_each_command(database: Database, case: str, watch: str) -> None:
    command, write, key = CASES[case]
    async with stage(database, case, watch) as (connection, writer):
        after = await position(connection)
        await writer.execute(write)
        assert await captured(connection, after, key)
        table = await connection.fetchval("select relation::text from unstale.watched")
        rows = f"{'number' if 'number' in command else 'id'} = 7"
        if case == "CREATE FOREIGN TABLE":
            rows += " and day = 1"  # the other server is not there
        for statement in (f"update {table} set note = 'y' where {rows}", f"delete from {table} where {rows}"):
            after = await position(connection)
            done = await writer.execute(statement)
            assert done.endswith(" 0") or await captured(connection, after, key), statement
        assert await reported(connection) == [] or case == "CREATE FOREIGN TABLE"


NO_WAY_OUT = {
    "DROP FUNCTION",  # of a capture: nothing is left that could report
    "CREATE FOREIGN TABLE",  # an update of the partitioned table asks for the other server
}


@pytest.mark.parametrize(("case", "watch"), cases(*NO_WAY_OUT))
async def test_without_event_triggers_writes_go_on_and_a_missing_capture_is_reported(
    plain_database: Database, case: str, watch: str
) -> None:
    _, write, key = CASES[case]
    async with stage(plain_database, case, watch) as (connection, writer):
        after = await position(connection)
        await writer.execute(write)
        assert await captured(connection, after, key) or await reported(connection) != []
        table = await connection.fetchval("select relation::text from unstale.watched")
        await writer.execute(f"update {table} set note = 'y'; delete from {table}")


@pytest.mark.parametrize("type_name", ["mood", "moods", "mood[]", "pair", "span"])
async def test_an_enum_that_a_watched_table_shows_is_renamed(database: Database, type_name: str) -> None:
    """Readers see another value, in whatever the enum is wrapped; other watches are left alone."""
    async with connected(database.dsn) as connection:
        await connection.execute(
            """
            create type mood as enum ('up', 'down'); create domain moods as mood;
            create type pair as (m mood, n int); create type span as range (subtype = mood);
            create table other (id int primary key); select unstale.watch('other', '{id}');
            """
        )
        await connection.execute(f"create table people (id int primary key, m {type_name}, n int)")
        await connection.execute("select unstale.watch('people', '{id}')")
        after = await position(connection)
        await connection.execute("alter type mood rename value 'up' to 'high'")
        assert [(entry.watch, entry.keys) for entry in await changes(connection, after)] == [(2, None)]
        await connection.execute("select unstale.watch('people', '{id}', '{n}')")
        after = await position(connection)
        await connection.execute("alter type mood rename value 'high' to 'up'")
        assert await changes(connection, after) == []


async def test_a_column_dropped_and_added_again_is_known_by_its_new_number(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table t (id int primary key, k text, v text)")
        await connection.execute("insert into t values (1, 'a', 'b')")
        await connection.execute("select unstale.watch('t', '{k}', '{v}')")
        for column in "kv":
            await connection.execute(
                f"alter table t drop column {column}; alter table t add column {column} text default 'x'; "
                f"alter table t rename column {column} to {column}2"
            )
        after = await position(connection)
        await connection.execute("update t set v2 = 'y'")
        await connection.execute("update t set k2 = 'z'")
        assert [entry.tuples() for entry in await changes(connection, after)] == [{("x",)}, {("x",), ("z",)}]


async def test_captures_that_cannot_be_generated_write_whole_table_entries(database: Database) -> None:
    """Whatever goes wrong while they follow a command, the user's statement and later writes go on."""
    async with connected(database.dsn) as connection:
        await connection.execute("create table t (id int primary key, k text, v text)")
        await connection.execute("select unstale.watch('t', '{k}', '{v}')")
        await connection.execute("insert into t values (1, 'a', 'b')")
        await connection.execute(
            "drop function unstale.place; create function unstale.place(integer, boolean, boolean) "
            "returns text language plpgsql as $$ begin raise exception 'broken'; end $$"
        )
        await connection.execute("set client_min_messages = error")
        await connection.execute("alter table t drop column k; alter table t rename column v to w")
        after = await position(connection)
        await connection.execute("update t set w = 'c'; update t set w = 'd' where id = 99; delete from t")
        assert {entry.keys is None for entry in await changes(connection, after)} == {True}
        assert await reported(connection) != []

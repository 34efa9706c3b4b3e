"""Captures follow the table through DDL, in the same transaction; the user's writes never fail."""

from __future__ import annotations

import asyncpg
import pytest

from servers import Database
from servers.outbox import connected, tuples_of

Tuples = set[tuple[str | None, ...]]


async def problem(connection: asyncpg.Connection, table: str) -> str | None:
    found: str | None = await connection.fetchval(
        "select problem from unstale.watched where table_name = $1 order by id desc limit 1", table
    )
    return found


async def errors(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch(
        "select subject || ': ' || finding from unstale.check() where severity = 'error'"
    )
    return [row[0] for row in rows]


async def test_a_renamed_column_or_table_goes_on_feeding_its_rule(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table people (id int primary key, org int, name text)")
        await connection.execute("select unstale.watch('people', '{org}', '{name}')")
        await connection.execute("insert into people values (1, 5, 'a')")
        assert await tuples_of(
            connection,
            "alter table people rename column org to company",
            "update people set name = 'b'",
            "alter table people rename column name to title",
            "update people set title = 'c'",
            "alter table people rename to humans",
            "update humans set company = 6",
        ) == [None, {("5",)}, None, {("5",)}, None, {("5",), ("6",)}]
        rows = await connection.fetch(
            "select table_name, key_columns from unstale.watch_versions where current"
        )
        assert [tuple(row) for row in rows] == [("people", ["org"])]
        assert await errors(connection) == []
        findings = [row[0] for row in await connection.fetch("select finding from unstale.check()")]
        assert findings == [
            "column name is now called title",
            "column org is now called company",
            "the table is now called public.humans; rules still know it by the old name",
        ]


async def test_a_dropped_key_column_turns_to_whole_table_entries(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table people (id int primary key, org int)")
        await connection.execute("select unstale.watch('people', '{org}')")
        await connection.execute("insert into people values (1, 5)")
        assert await tuples_of(
            connection,
            "begin; alter table people drop column org; insert into people values (2); commit",
            "update people set id = 3 where id = 2",
            "update people set id = 3 where id = 99",
            "delete from people where id = 3",
        ) == [None, None, None, None]
        assert await problem(connection, "people") == "key column org is gone"
        # A column of that name that comes back is captured again.
        assert await tuples_of(
            connection,
            "alter table people add column org int default 8",
            "update people set org = 9",
        ) == [None, {("8",), ("9",)}]
        assert await problem(connection, "people") is None


async def test_a_dropped_filter_column_or_primary_key_switches_the_filter_off(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table people (id int primary key, name text, note text)")
        await connection.execute("select unstale.watch('people', '{id}', '{name}')")
        await connection.execute("insert into people values (1, 'a', 'b')")
        assert await tuples_of(
            connection,
            "update people set note = 'c'",
            "alter table people drop constraint people_pkey",
            "update people set note = 'd'",
            "alter table people add primary key (id)",
            "update people set note = 'e'",
            "alter table people drop column name",
            "update people set note = 'f'",
        ) == [None, {("1",)}, None, None, {("1",)}]


async def test_types_follow(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create type mood as enum ('up', 'down')")
        await connection.execute("create table people (id int primary key, m mood)")
        await connection.execute("select unstale.watch('people', '{id,m}')")
        await connection.execute("insert into people values (1, 'up')")
        assert await tuples_of(
            connection,
            "alter type mood rename value 'up' to 'high'",
            "update people set id = 1",
            "alter table people alter column id type text using 'x' || id",
            "update people set m = null",
            width=2,
        ) == [None, {("1", "high")}, None, {("x1", "high"), ("x1", None)}]
        await connection.execute("alter table people alter column id type numeric using 1")
        assert await problem(connection, "people") == "key column id has a type that is not supported"
        await connection.execute("update people set m = 'down'")
        await connection.execute("drop type mood cascade")
        assert await problem(connection, "people") == "key column m is gone"
        await connection.execute("delete from people")
        assert await errors(connection) == []


async def test_a_dropped_table_says_so_once_more_and_may_come_back(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create schema shop; create table shop.items (id int primary key)")
        await connection.execute("select unstale.watch('shop.items', '{id}')")
        assert await tuples_of(connection, "drop schema shop cascade") == [None]
        assert await connection.fetchval("select count(*) from unstale.watch_versions where current") == 0
        assert await connection.fetchval("select count(*) from pg_proc where proname like 'capture%'") == 0
        assert await errors(connection) == []
        await connection.execute("create schema shop; create table shop.items (id int primary key)")
        assert len(await errors(connection)) == 1
        await connection.execute("select unstale.watch('shop.items', '{id}')")
        assert await errors(connection) == []


async def test_a_table_swapped_by_rename_is_reported_then_watched(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            "create table items (id int primary key); create table items_new (id int primary key)"
        )
        await connection.execute("select unstale.watch('items', '{id}')")
        await connection.execute(
            "alter table items rename to items_old; alter table items_new rename to items"
        )
        assert len(await errors(connection)) == 1
        await connection.execute("select unstale.watch('items', '{id}')")
        assert await errors(connection) == []
        assert await tuples_of(
            connection, "insert into items_old values (1)", "insert into items values (2)"
        ) == [{("2",)}]


async def test_partitions_at_every_level(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            """
            create table logs (id int, day int, note text, primary key (id, day)) partition by list (day);
            create table logs1 partition of logs for values in (1);
            """
        )
        await connection.execute("select unstale.watch('logs', '{id}')")
        assert await tuples_of(
            connection,
            # Empty, so nothing cached can be wrong because of them.
            "create table logs2 partition of logs for values in (2) partition by list (day)",
            "create table logs2a partition of logs2 for values in (2)",
            "insert into logs values (1, 1), (2, 2)",
            "insert into logs1 values (3, 1)",
            "insert into logs2 values (4, 2)",
            "insert into logs2a values (5, 2)",
            "update logs set day = 2 where id = 1",
            "update logs2a set note = 'x' where id = 5",
            "delete from logs1",
            "truncate logs2a",
        ) == [{("1",), ("2",)}, {("3",)}, {("4",)}, {("5",)}, {("1",)}, {("5",)}, {("3",)}, None]
        await connection.execute(
            "create table other (note text, day int not null, id int not null); "
            "insert into other values ('', 3, 30)"
        )
        assert await tuples_of(
            connection,
            "alter table logs attach partition other for values in (3)",
            "insert into other values ('', 3, 31)",
            "alter table logs detach partition other",
            "insert into other values ('', 3, 32)",
            "drop table logs2",
            "alter table logs add column more int",
        ) == [None, {("31",)}, None, None, None]
        assert await errors(connection) == []
        # Truncating the parent fires the trigger of each table it truncates.
        assert set(map(str, await tuples_of(connection, "truncate logs"))) == {"None"}


async def test_inheritance_children(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table animals (id int primary key, name text)")
        await connection.execute("select unstale.watch('animals', '{id}')")
        assert await tuples_of(
            connection,
            "create table cats (lives int) inherits (animals)",
            "insert into cats values (1, 'a', 9)",
            "update animals set name = 'b'",
            "alter table cats no inherit animals",
            "insert into cats values (2, 'a', 9)",
        ) == [{("1",)}, {("1",)}, None]


async def test_a_foreign_partition_makes_captures_blunt_until_it_is_gone(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await connection.execute(
            """
            create extension postgres_fdw;
            create server elsewhere foreign data wrapper postgres_fdw;
            grant usage on foreign server elsewhere to postgres;
            """
        )
    async with connected(database.dsn) as connection:
        await connection.execute(
            """
            create table logs (id int, day int) partition by list (day);
            create table logs1 partition of logs for values in (1);
            """
        )
        await connection.execute("select unstale.watch('logs', '{id}')")
        assert await tuples_of(
            connection,
            "create foreign table logs2 partition of logs for values in (2) server elsewhere",
            "insert into logs values (1, 1)",
            "update logs1 set id = 2",
        ) == [None, None]
        assert await problem(connection, "logs") == "a partition or child is a foreign table"
        await connection.execute("drop foreign table logs2")
        assert await problem(connection, "logs") is None
        assert await tuples_of(connection, "insert into logs values (3, 1)") == [{("3",)}]


async def test_disabled_triggers_are_enabled_again(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table people (id int primary key)")
        await connection.execute("select unstale.watch('people', '{id}')")
        await connection.execute("alter table people disable trigger user")
        assert await tuples_of(connection, "insert into people values (1)") == [{("1",)}]
        enabled = await connection.fetch(
            "select distinct tgenabled from pg_trigger where tgname like 'unstale%'"
        )
        assert [row[0] for row in enabled] == [b"A"]


async def test_ddl_that_concerns_nobody_writes_nothing(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table people (id int primary key)")
        await connection.execute("select unstale.watch('people', '{id}')")
        assert (
            await tuples_of(
                connection,
                "create table other (id int)",
                "alter table other add column name text",
                "create index on people (id)",
                "create type mood as enum ('up')",
                "alter type mood add value 'down'",
                "drop type mood",
                "drop table other",
            )
            == []
        )


async def test_where_event_triggers_are_refused_watch_warns_and_check_finds_what_is_stale(
    plain_database: Database,
) -> None:
    async with connected(plain_database.dsn) as connection:
        warnings: list[str] = []
        connection.add_log_listener(lambda _, message: warnings.append(str(message)))
        await connection.execute("create table people (id int primary key, org int)")
        await connection.execute("select unstale.watch('people', '{org}')")
        assert (
            len([text for text in warnings if "call unstale.watch again after each ALTER TABLE" in text]) == 1
        )
        await connection.execute("alter table people rename column org to company")
        assert [text.split(":")[0] for text in await errors(connection)] == ["public.people"] * 3
        assert await tuples_of(
            connection,
            "insert into people values (1, 7)",
            "alter table people rename column company to org",
            "update people set id = 2",
            "alter table people alter column org type numeric",
            "update people set id = 3",
            "alter table people drop column org",
            "delete from people",
        ) == [None, {("7",)}, None, None]
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute("select unstale.watch('people', '{org}')")
        await connection.execute("select unstale.watch('people', '{id}')")
        assert await errors(connection) == []

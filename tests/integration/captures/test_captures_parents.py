"""A watched table that is written through a parent nobody watches: a partition, a child."""

from __future__ import annotations

import asyncpg
import pytest

from servers import Database
from servers.outbox import connected, tuples_of

LOGS = """
create table logs (id int, day int, note text, primary key (id, day)) partition by list (day);
create table logs1 partition of logs for values in (1);
create table logs2 partition of logs for values in (2);
"""


async def findings(connection: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await connection.fetch("select finding from unstale.check()")]


async def triggers(connection: asyncpg.Connection, table: str) -> int:
    count: int = await connection.fetchval(
        "select count(*) from pg_trigger where tgrelid = $1::text::regclass and tgname like 'unstale%'", table
    )
    return count


@pytest.mark.parametrize("event_triggers", [True, False])
async def test_a_watched_partition_written_through_its_parent(
    database: Database, plain_database: Database, event_triggers: bool
) -> None:
    async with connected((database if event_triggers else plain_database).dsn) as connection:
        await connection.execute(LOGS)
        await connection.execute("select unstale.watch('logs1', '{id}')")
        assert await tuples_of(
            connection,
            "insert into logs values (1, 1), (2, 1)",
            "insert into logs1 values (3, 1)",
            "update logs set note = 'x' where id = 1",
            "update logs set id = 5 where id = 3",
            "update logs set day = 2 where id = 5",
            "delete from logs where id = 2",
            "insert into logs2 values (9, 2)",
        ) == [{("1",), ("2",)}, {("3",)}, {("1",)}, {("3",), ("5",)}, {("5",)}, {("2",)}]
        assert None in await tuples_of(connection, "truncate logs")
        assert [text for text in await findings(connection) if "ALTER TABLE" not in text] == []
        await connection.execute("select unstale.unwatch('logs1')")
        assert await triggers(connection, "logs") == 0


async def test_a_watched_table_becomes_a_partition_and_is_free_again(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(LOGS)
        await connection.execute(
            "create table logs3 (id int not null, day int not null, note text); "
            "create table years (id int, day int, note text) partition by range (day)"
        )
        await connection.execute("select unstale.watch('logs3', '{id}')")
        assert await tuples_of(
            connection,
            "alter table logs attach partition logs3 for values in (3)",
            "insert into logs values (1, 3)",
            "update logs set id = 2",
            # A grandparent.
            "alter table years attach partition logs for values from (0) to (10)",
            "update years set id = 3",
            "delete from years",
        ) == [None, {("1",)}, {("1",), ("2",)}, None, {("2",), ("3",)}, {("3",)}]
        assert await findings(connection) == []
        await connection.execute("alter table years detach partition logs")
        assert await triggers(connection, "years") == 0
        await connection.execute("alter table logs detach partition logs3")
        assert await triggers(connection, "logs") == 0
        assert await triggers(connection, "logs3") == 4
        assert await tuples_of(
            connection, "insert into logs values (7, 1)", "insert into logs3 values (8, 3)"
        ) == [{("8",)}]
        assert await findings(connection) == []


async def test_a_watched_child_and_its_parents(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            """
            create table animals (id int, name text);
            create table pets (id int, owner int);
            create table cats (lives int) inherits (animals);
            """
        )
        await connection.execute("select unstale.watch('cats', '{id}')")
        assert await tuples_of(
            connection,
            "insert into cats values (1, 'a', 9)",
            "update animals set name = 'b'",
            "alter table cats add column owner int",
            "alter table cats inherit pets",
            "update pets set id = 2",
            "alter table cats no inherit animals",
            "insert into animals values (5, 'dog')",
            "delete from pets",
        ) == [{("1",)}, {("1",)}, None, None, {("1",), ("2",)}, None, {("2",)}]
        assert await findings(connection) == []
        # Nobody can see this column through the parent.
        await connection.execute("select unstale.watch('cats', '{lives}')")
        assert await tuples_of(
            connection, "insert into cats (id, lives) values (1, 7)", "update pets set id = 2"
        ) == [None, None]
        assert any("parent public.pets has no such key column" in text for text in await findings(connection))
        await connection.execute("alter table cats no inherit pets")
        assert await findings(connection) == []
        assert await tuples_of(connection, "update cats set lives = 6") == [{("7",), ("6",)}]


async def test_a_column_filter_below_a_parent_is_off(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table logs (id int, note text, seen int) partition by list (id)")
        await connection.execute("create table logs1 (id int primary key, note text, seen int)")
        await connection.execute("select unstale.watch('logs1', '{id}', '{note}')")
        await connection.execute("insert into logs1 values (1, 'a', 0)")
        assert await tuples_of(
            connection,
            "update logs1 set seen = 1",
            "alter table logs attach partition logs1 for values in (1)",
            "update logs set seen = 2",
            "alter table logs detach partition logs1",
            "update logs1 set seen = 3",
        ) == [None, {("1",)}, None]


async def test_a_foreign_sibling_makes_captures_blunt(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await connection.execute(
            """
            create extension postgres_fdw;
            create server elsewhere foreign data wrapper postgres_fdw;
            grant usage on foreign server elsewhere to postgres;
            """
        )
    async with connected(database.dsn) as connection:
        await connection.execute(LOGS.replace(", primary key (id, day)", ""))
        await connection.execute("select unstale.watch('logs1', '{id}')")
        assert await tuples_of(
            connection,
            "create foreign table logs3 partition of logs for values in (3) server elsewhere",
            "insert into logs values (1, 1)",
            "update logs set id = 2 where day = 1",
        ) == [None, None]
        await connection.execute("drop foreign table logs3")
        assert await tuples_of(connection, "update logs set id = 4") == [{("2",), ("4",)}]
        assert await findings(connection) == []


async def test_a_parent_that_is_not_ours(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await connection.execute(LOGS)
        await connection.execute("alter table logs1 owner to postgres")
    async with connected(database.dsn) as connection:
        with pytest.raises(asyncpg.PostgresError, match=r"may not create triggers on public\.logs") as caught:
            await connection.execute("select unstale.watch('logs1', '{id}')")
        assert caught.value.sqlstate == "UN007"


async def test_a_temporary_child_is_its_sessions_own(database: Database) -> None:
    async with connected(database.dsn) as connection, connected(database.dsn) as other:
        await connection.execute("create table animals (id int primary key)")
        await other.execute("create temporary table mine () inherits (animals)")
        await connection.execute("select unstale.watch('animals', '{id}')")
        assert await tuples_of(
            other,
            "insert into mine values (1)",
            "update animals set id = 2",
            "create temporary table more () inherits (animals)",
            "drop table mine",
        ) == [{("1",), ("2",)}]
        assert await findings(connection) == []


async def test_a_watched_partition_is_detached_concurrently(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(LOGS)
        await connection.execute("select unstale.watch('logs1', '{id}')")
        await connection.execute("alter table logs detach partition logs1 concurrently")
        assert await triggers(connection, "logs") == 0
        assert await tuples_of(
            connection, "insert into logs values (7, 2)", "insert into logs1 values (8, 1)"
        ) == [{("8",)}]
        assert await findings(connection) == []

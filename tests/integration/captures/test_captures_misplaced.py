"""A capture knows its table: what a dump of one table brings along writes nothing and fails nothing."""

from __future__ import annotations

import asyncpg
import pytest

from servers import Database, create_database, drop_database, run_apart
from servers.outbox import changes, connected, position, tuples_of

OPERATIONS = {
    "insert": "referencing new table as new_rows",
    "update": "referencing old table as old_rows new table as new_rows",
    "delete": "referencing old table as old_rows",
    "truncate": "",
}

WATCHED = """
create table orders (order_id int primary key, total numeric, note text);
select unstale.watch('orders', {columns});
insert into orders values (1, 1, 'a');
"""


async def restore(
    connection: asyncpg.Connection, *, argument: str = "", transition: bool = True, watch: int = 1
) -> None:
    """Do what restoring ``pg_dump -t profiles`` does: the table was the watch of that number elsewhere."""
    await connection.execute("create table profiles (id int primary key, name text)")
    for operation, referencing in OPERATIONS.items():
        name = f"unstale_{watch}_{operation}"
        await connection.execute(
            f"create trigger {name} after {operation} on profiles {referencing if transition else ''} "
            f"for each statement execute function unstale.capture_{watch}_{operation}({argument})"
        )
        await connection.execute(f"alter table profiles enable always trigger {name}")


async def writes(connection: asyncpg.Connection) -> list[object]:
    """Write to the restored table in every way; return the entries."""
    after = await position(connection)
    await connection.execute("insert into profiles values (1, 'a'), (2, 'b')")
    await connection.execute("update profiles set name = 'x' where id = 1; update profiles set name = 'y'")
    await connection.execute("delete from profiles where id = 1; truncate profiles")
    return [entry.keys and sorted(map(str, entry.keys)) for entry in await changes(connection, after)]


async def foreign(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch(
        "select subject from unstale.check() where finding like '%came with a dump'"
    )
    return [row[0] for row in rows]


@pytest.mark.parametrize("columns", ["'{order_id}'", "'{order_id}', '{total}'"])
@pytest.mark.parametrize("argument", ["", "'16400:16400'", "'?:16400'"])
@pytest.mark.parametrize("transition", [True, False])
async def test_a_dump_of_a_table_that_was_this_watch_elsewhere(
    database: Database, columns: str, argument: str, transition: bool
) -> None:
    async with connected(database.dsn) as connection, connected(database.dsn) as cached:
        await connection.execute(WATCHED.format(columns=columns))
        orders = await connection.fetchval("select 'orders'::regclass::oid::text")
        await restore(connection, argument=argument.replace("?", orders), transition=transition)
        for session in (connection, cached):
            assert await writes(session) == []
        assert await foreign(connection) == ["public.profiles"] * 4
        assert await tuples_of(connection, "update orders set total = 2") == [{("1",)}]
        await connection.execute("select unstale.watch('profiles', '{id}')")
        assert await foreign(connection) == []
        for session in (connection, cached):
            assert await writes(session) == [["1", "2"], ["1"], ["1", "2"], ["1"], None]
        names = await connection.fetch("select tgname from pg_trigger where tgrelid = 'profiles'::regclass")
        assert {row[0] for row in names} == {f"unstale_2_{operation}" for operation in OPERATIONS}


async def test_a_dump_of_a_partition_and_of_a_table_watched_twice_over(plain_database: Database) -> None:
    """The trigger of another watch on a table that is watched itself; without event triggers."""
    async with connected(plain_database.dsn) as connection:
        await connection.execute(WATCHED.format(columns="'{order_id}'"))
        await restore(connection)
        await connection.execute(
            "create table people (id int, name text) partition by list (id); "
            "alter table people attach partition profiles for values in (1, 2)"
        )
        await connection.execute("select unstale.watch('people', '{id}')")
        assert await writes(connection) == [["1", "2"], ["1"], ["1", "2"], ["1"], None]
        assert await foreign(connection) == []


async def test_a_table_made_like_a_watched_one_is_another(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(WATCHED.format(columns="'{order_id}'"))
        await connection.execute("create table copied (like orders including all)")
        assert await tuples_of(connection, "insert into copied values (5, 5)", "truncate copied") == []
        assert await connection.fetch("select * from unstale.check()") == []


async def test_a_copied_database_captures_on(database: Database) -> None:
    """A database made from a template has the same oids; one restored from a dump has others."""
    async with connected(database.dsn) as connection:
        await connection.execute(
            """
            create table logs (id int, day int, primary key (id, day)) partition by list (day);
            create table logs1 partition of logs for values in (1);
            select unstale.watch('logs', '{id}');
            """
        )
    name = f"{database.name}_copy"
    run_apart(create_database(database.server, name=name, template=database.name))
    try:
        copy = Database(name=name, server=database.server)
        async with connected(copy.dsn) as connection:
            assert await tuples_of(
                connection, "insert into logs values (1, 1)", "insert into logs1 values (2, 1)"
            ) == [{("1",)}, {("2",)}]
    finally:
        run_apart(drop_database(database.server, name=name))


async def test_captures_restored_with_everything_capture_on(database: Database) -> None:
    """After pg_restore of a whole database every oid is another one, in functions and triggers alike."""
    async with connected(database.superuser_dsn) as connection:
        await connection.execute(
            """
            create table logs (id int, day int, primary key (id, day)) partition by list (day);
            create table logs1 partition of logs for values in (1);
            select unstale.watch('logs', '{id}');
            alter event trigger unstale_ddl disable; alter event trigger unstale_drop disable;
            do $$
            declare
                f record;
            begin
                -- As if these had been the oids elsewhere.
                for f in
                    select p.oid::regprocedure as name, p.prosrc from pg_proc as p
                    where p.proname ~ '^capture_1_'
                loop
                    execute format('create or replace function %s returns trigger language plpgsql '
                        'security definer set search_path = '''' as %L', f.name,
                        replace(f.prosrc, 'logs'::regclass::oid::text, '77'));
                end loop;
            end
            $$;
            """
        )
        assert await tuples_of(
            connection,
            "insert into logs values (1, 1)",
            "insert into logs1 values (2, 1)",
            "update logs set id = 3 where id = 1",
            "delete from logs1",
        ) == [{("1",)}, {("2",)}, {("1",), ("3",)}, {("2",), ("3",)}]

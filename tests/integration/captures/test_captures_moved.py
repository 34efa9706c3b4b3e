"""An update whose rows do not all arrive: the entry is about the rows that were there before, too."""

from __future__ import annotations

import pytest

from servers import Database
from servers.outbox import connected, tuples_of

LOGS = """
create table logs (id int, day int, owner int, note text, primary key (id, day)) partition by list (day);
create table logs1 partition of logs for values in (1);
create table logs2 partition of logs for values in (2);
create function refuse() returns trigger language plpgsql as
    $$ begin if new.note = 'gone' then return null; end if; new.owner := new.owner + 100; return new; end $$;
create trigger refuse before insert on logs2 for each row execute function refuse();
insert into logs select n, 1, n + 10, '' from generate_series(1, 6) as n;
"""

KEYS = {"primary key": "'{id}'", "another column": "'{owner}'", "a filter": "'{owner}', '{note}'"}


@pytest.mark.parametrize("watched", KEYS)
async def test_a_row_that_vanishes_on_its_way_to_another_partition(database: Database, watched: str) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(LOGS)
        await connection.execute(f"select unstale.watch('logs', {KEYS[watched]})")

        def key(number: int) -> tuple[str]:
            return (str(number if watched == "primary key" else number + 10),)

        assert await tuples_of(
            connection,
            "update logs set day = 2, note = 'gone' where id = 1",
            "update logs set day = 2, note = 'gone' where id in (2, 3)",
        ) == [{key(1)}, {key(2), key(3)}]
        # One of three arrives, and a trigger changed it on the way.
        (found,) = await tuples_of(
            connection,
            "update logs set day = 2, note = case id when 4 then 'moved' else 'gone' end where id > 3",
        )
        assert found is not None
        assert found >= {key(4), key(5), key(6)}
        if watched != "primary key":
            assert ("114",) in found
        assert await connection.fetchval("select count(*) from logs") == 1


async def test_with_whole_table_entries_too(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(LOGS)
        await connection.execute("select unstale.watch('logs', '{owner}')")
        await connection.execute("alter table logs drop column owner")
        await connection.execute("create or replace function refuse() returns trigger language plpgsql as "
                                 "$$ begin return null; end $$")  # fmt: skip
        assert await tuples_of(
            connection, "update logs set day = 2 where id = 1", "update logs set day = 2 where id = 77"
        ) == [None]


async def test_a_merge_that_moves_and_deletes(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(LOGS)
        await connection.execute("select unstale.watch('logs', '{id}')")
        found = await tuples_of(
            connection,
            "merge into logs using (values (1), (2), (3)) as v(n) on logs.id = v.n "
            "when matched and n = 3 then delete "
            "when matched then update set day = 2, note = 'gone'",
        )
        assert set().union(*(entry or () for entry in found)) == {("1",), ("2",), ("3",)}


async def test_a_rule_that_turns_an_update_into_a_delete(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table people (id int primary key, name text)")
        await connection.execute("insert into people values (1, 'a')")
        await connection.execute("select unstale.watch('people', '{id}', '{name}')")
        await connection.execute(
            "create rule away as on update to people do instead delete from people where id = old.id"
        )
        assert await tuples_of(connection, "update people set name = 'b' where id = 1") == [{("1",)}]


async def test_children_may_repeat_a_primary_key(database: Database) -> None:
    """A primary key tells the rows of a table apart, and not those of its children."""
    async with connected(database.dsn) as connection:
        await connection.execute("create table animals (id int primary key, owner int, name text)")
        await connection.execute("create table cats () inherits (animals)")
        await connection.execute("create table dogs () inherits (animals)")
        await connection.execute("select unstale.watch('animals', '{owner}', '{name}')")
        await connection.execute("insert into cats values (1, 5, 'a'); insert into dogs values (1, 5, 'b')")
        assert await tuples_of(
            connection, "update animals set name = case name when 'a' then 'b' else 'a' end"
        ) == [{("5",)}]

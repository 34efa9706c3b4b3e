"""Statements of many rows, keyed by the primary key: every key, each once, in entries that fit a page."""

# ruff: noqa: S608  (the names in these statements are the test's own)

from __future__ import annotations

import shutil
from pathlib import Path

import asyncpg
import pytest

from servers import Database
from servers.outbox import Entry, changes, connected, position, tuples_of
from unstale_worker.dev_servers import migrations_folder
from unstale_worker.dev_servers.migrations import apply_migrations
from unstale_worker.migration.writer import write_migration
from unstale_worker.rules import Rules


async def entries(connection: asyncpg.Connection, statement: str) -> list[Entry]:
    after = await position(connection)
    await connection.execute(statement)
    return await changes(connection, after)


def keys(found: list[Entry]) -> list[str]:
    """All keys in order; a repeated one is there twice."""
    return sorted(key for entry in found for key in entry.keys or [] if key is not None)


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("smallint", "n::smallint"),
        ("integer", "n"),
        ("serials", "n"),
        ("uuid", "lpad(n::text, 32, '0')::uuid"),
    ],
)
async def test_each_key_once_whatever_the_number_of_rows(
    database: Database, type_name: str, value: str
) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create domain serials as bigint check (value > 0)")
        await connection.execute(f"create table many (id {type_name} primary key, n int)")
        await connection.execute("select unstale.watch('many', '{id}')")
        source = await connection.fetchval("select prosrc from pg_proc where proname = 'capture_1_update'")
        assert "generate_series" in source
        for rows in (1, 2, 175, 176, 437, 438, 1501):
            inserted = await entries(
                connection, f"insert into many select {value}, n from generate_series(1, {rows}) as n"
            )
            wanted = sorted([row[0] for row in await connection.fetch("select id::text from many")])
            assert len(wanted) == rows
            assert keys(inserted) == wanted
            assert keys(await entries(connection, "update many set n = n + 1")) == wanted
            assert keys(await entries(connection, "delete from many")) == wanted
            assert await entries(connection, "update many set n = n + 1") == []
            assert await entries(connection, "delete from many") == []
        assert await connection.fetchval("select max(pg_column_size(o.*)) < 8160 from unstale.outbox as o")


async def test_keys_that_change_are_there_old_and_new(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            "create table many (id int primary key deferrable initially deferred, n int default 0)"
        )
        await connection.execute("select unstale.watch('many', '{id}')")
        await connection.execute("insert into many select n from generate_series(1, 1000) as n")

        async def changed(statement: str) -> list[str]:
            found = await entries(connection, statement)
            assert len(set(keys(found))) == len(keys(found))
            return keys(found)

        def named(*spans: range) -> list[str]:
            return sorted(str(n) for span in spans for n in span)

        assert await changed("update many set id = id + 5000") == named(range(1, 1001), range(5001, 6001))
        # Old and new keys are the same set, in another order.
        assert await changed("update many set id = 11001 - id") == named(range(5001, 6001))
        assert await changed(
            "update many set id = case id when 5001 then 5002 else 5001 end where id < 5003"
        ) == [
            "5001",
            "5002",
        ]
        # One key of a thousand.
        assert await changed("update many set n = 1, id = case id when 6000 then 7 else id end") == named(
            range(5001, 6001), range(7, 8)
        )
        await connection.execute(
            "create function shift() returns trigger language plpgsql as "
            "$$ begin if new.id % 2 = 0 then new.id := new.id + 10000; end if; return new; end $$; "
            "create trigger shift before update on many for each row execute function shift()"
        )
        assert await changed("update many set n = 2 where id between 5001 and 5004") == named(
            range(5001, 5005), range(15002, 15005, 2)
        )
        assert await changed(
            "merge into many as m using (values (5001), (5003)) as v(id) on m.id = v.id "
            "when matched then update set id = m.id + 1000"
        ) == ["5001", "5003", "6001", "6003"]


async def test_more_rows_than_arrays_may_hold(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table many (id int primary key, n int)")
        await connection.execute("select unstale.watch('many', '{id}')")
        count = "select count(*), count(distinct k) from unstale.outbox, unnest(keys) as k"
        for rows in (250_000, 250_001):
            await connection.execute("truncate unstale.outbox")
            await connection.execute(
                "insert into many select n, 0 from generate_series(1, $1::int) as n", rows
            )
            assert tuple((await connection.fetch(count))[0]) == (rows, rows)
            await connection.execute("truncate unstale.outbox")
            await connection.execute("update many set n = 1")
            assert tuple((await connection.fetch(count))[0]) == (rows, rows)
            await connection.execute("truncate many")


async def test_without_the_primary_key_keys_are_made_distinct(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table many (id int primary key, owner int, n int)")
        await connection.execute("select unstale.watch('many', '{id}')")
        await connection.execute("insert into many select n, n % 3, 0 from generate_series(1, 900) as n")
        await connection.execute("alter table many drop constraint many_pkey")
        assert await connection.fetch("select * from unstale.check()") == []
        found = await entries(connection, "insert into many values (1, 1), (1, 2), (2, 2)")
        assert keys(found) == ["1", "2"]
        found = await entries(connection, "update many set n = 1 where id < 3")
        assert keys(found) == ["1", "2"]
        await connection.execute(
            "delete from many where id < 3; alter table many add primary key (owner, id)"
        )
        assert await connection.fetch("select * from unstale.check()") == []
        await connection.execute("select unstale.watch('many', '{owner}')")
        assert await tuples_of(connection, "update many set n = 2") == [{("0",), ("1",), ("2",)}]
        assert keys(await entries(connection, "update many set n = 3")) == ["0", "1", "2"]


async def test_one_statement_that_changes_many_rows_of_several_tables(database: Database) -> None:
    """Captures then follow each other with little WAL between: it is what tells their entries apart."""
    async with connected(database.dsn) as connection:
        names = [f"bulk_{number}" for number in range(4)]
        for name in names:
            await connection.execute(f"create table {name} (id bigint primary key)")
            await connection.execute(f"select unstale.watch('{name}', '{{id}}')")
        writes = ", ".join(
            f"c_{name} as (insert into {name} select n from generate_series($1::int, $2::int) as n)"
            for name in names
        )
        before = await connection.fetchval("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        first = 1
        for rows in range(2, 40):
            await connection.execute(f"with {writes} select", first, first + rows - 1)
            first += rows

        found = await connection.fetch(
            "select xid::text, array_agg(id order by id) as ids, array_agg(watch order by id) as watches"
            " from unstale.outbox where keys is not null group by xid"
        )
        assert len(found) == 38
        for row in found:
            assert len(set(row["watches"])) == len(row["ids"]) == 4
            assert row["ids"][0] >= before  # positions in the WAL, as the column's comment says


def as_it_was(folder: Path) -> tuple[Path, str]:
    """Copies unstale's migrations; the one of the captures, and the text it had."""
    shutil.copytree(migrations_folder(), folder, dirs_exist_ok=True)
    (file,) = folder.glob("*_unstale_captures.sql")
    mended = file.read_text()
    earlier = mended.replace("(g.first operator(pg_catalog./) %3$s)", "g.first operator(pg_catalog./) %3$s")
    assert earlier != mended
    return file, earlier


async def test_a_database_migrated_before_that_was_mended_is_brought_up_to_date(
    database: Database, tmp_path: Path
) -> None:
    """As docs/operations.md says: the old file stays, the new text and all after it follow all others."""
    file, earlier = as_it_was(tmp_path)
    rules = Rules.parse('[[watch]]\ntable = "public.many"\nkeys = ["many:{id}"]')
    async with connected(database.dsn) as connection:

        async def mended() -> bool:
            body = await connection.fetchval("select prosrc from pg_proc where proname = 'capture_1_insert'")
            return "(g.first operator" in body

        file.write_text(earlier)
        await connection.execute(earlier)
        await connection.execute("create table many (id bigint primary key)")
        write_migration(rules, tmp_path)
        assert len(await apply_migrations(database.dsn, tmp_path)) == 1
        assert not await mended()
        assert await connection.fetch("select * from unstale.check()") == []

        assert write_migration(rules, tmp_path, base=migrations_folder()).renewed
        assert write_migration(rules, tmp_path, base=migrations_folder()).unchanged
        captures, *_, watches = await apply_migrations(database.dsn, tmp_path)
        assert captures.endswith("_unstale_captures.sql")
        assert watches.endswith("_unstale_watches.sql")
        assert await mended()
        assert await connection.fetch("select * from unstale.check()") == []

"""Captures write the distinct key tuples of what a statement changed, and nothing else."""

# ruff: noqa: S608  (the names in these statements are the test's own)

from __future__ import annotations

import asyncpg
import pytest

from servers import Database
from servers.outbox import changes, connected, position, tuples_of


async def test_each_operation_is_captured_with_old_and_new_keys(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table profiles (id int primary key, name text)")
        await connection.execute("select unstale.watch('public.profiles', '{id}')")
        assert await tuples_of(
            connection,
            "insert into profiles select n, '' from generate_series(1, 3) as n",
            "update profiles set name = 'x' where id = 2",
            "update profiles set id = 9 where id = 3",
            "update profiles set id = id + 100 where id < 9",
            "delete from profiles where id = 101",
            "truncate profiles",
        ) == [
            {("1",), ("2",), ("3",)},
            {("2",)},
            {("3",), ("9",)},
            {("1",), ("2",), ("101",), ("102",)},
            {("101",)},
            None,
        ]


async def test_a_statement_that_changes_no_row_writes_nothing(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table profiles (id int primary key, name text)")
        await connection.execute("select unstale.watch('public.profiles', '{id}')")
        async with connection.transaction():
            await connection.execute("update profiles set name = 'x'")
            await connection.execute("delete from profiles")
            await connection.execute("insert into profiles select 1, 'x' where false")
            assert await connection.fetchval("select pg_current_xact_id_if_assigned()") is None


async def test_watching_and_unwatching_invalidate_the_whole_table(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table profiles (id int primary key)")
        watch = "select unstale.watch('public.profiles', '{id}')"
        assert await tuples_of(connection, watch, watch) == [None, None]
        assert await tuples_of(connection, "select unstale.unwatch('public.profiles')") == [None]
        assert await tuples_of(connection, "insert into profiles values (1)") == []
        assert await connection.fetchval("select unstale.unwatch('public.profiles')") is False


async def test_versions_change_only_when_the_watch_does(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table profiles (id int primary key, org int, name text)")

        async def watch(*arguments: object) -> tuple[int, int]:
            found = await connection.fetchrow(
                "select * from unstale.watch('public.profiles', $1, $2)", *arguments
            )
            assert found is not None
            return found["watch"], found["version"]

        first, version = await watch(["id"], None)
        assert await watch(["id"], None) == (first, version)
        assert await watch(["org", "id"], None) == (first, version + 1)
        assert await watch(["org", "id"], ["name"]) == (first, version + 2)
        await connection.execute("select unstale.unwatch('public.profiles')")
        assert await watch(["org", "id"], ["name"]) == (first, version + 3)
        rows = await connection.fetch(
            'select version, table_schema, table_name, key_columns, "current" '
            "from unstale.watch_versions order by version"
        )
        assert [tuple(row) for row in rows] == [
            (version, "public", "profiles", ["id"], False),
            (version + 1, "public", "profiles", ["org", "id"], False),
            (version + 2, "public", "profiles", ["org", "id"], False),
            (version + 3, "public", "profiles", ["org", "id"], True),
        ]


async def test_values_are_what_python_str_gives(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create type mood as enum ('happy', 'so so')")
        await connection.execute("create domain moods as mood")
        await connection.execute("create domain number as bigint check (value > -100)")
        await connection.execute("create domain numbers as number")
        columns = {
            "a": "smallint",
            "b": "integer",
            "c": "numbers",
            "d": "text",
            "e": "varchar(20)",
            "f": "uuid",
            "g": "boolean",
            "h": "mood",
            "i": "moods",
        }
        await connection.execute(
            f"create table everything ({', '.join(f'{name} {type}' for name, type in columns.items())})"
        )
        await connection.execute("select unstale.watch('everything', $1)", list(columns))
        values = (
            "-5, 7, -9, 'it''s \\ \"{,}\" ü', '', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', true, "
            "'so so', 'happy'"
        )
        after = await position(connection)
        await connection.execute(f"insert into everything values ({values})")
        await connection.execute("insert into everything (g) values (false), (null)")
        loaded = await connection.fetchrow("select * from everything where g")
        assert loaded is not None
        first, second = await changes(connection, after)
        assert first.keys == [str(value) for value in loaded.values()]
        nothing = [None] * 6
        assert second.tuples(9) == {
            (*nothing, "False", None, None),
            (*nothing, None, None, None),
        }


async def test_names_of_any_kind_work(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute('create schema "My ""Schema"')
        table = '"My ""Schema"."a \'$q$ table"'
        await connection.execute(
            f'create table {table} ("User Id" int primary key, "$body$ ""x" text, "%s" text)'
        )
        await connection.execute(
            "select unstale.watch($1::text::regclass, $2, $3)", table, ["User Id", '$body$ "x'], ["%s"]
        )
        assert await tuples_of(
            connection,
            f"insert into {table} values (1, 'a', 'b'), (2, 'a', 'b')",
            f'update {table} set "%s" = \'c\' where "User Id" = 1',
            f"update {table} set \"%s\" = 'd'",
            width=2,
        ) == [{("1", "a"), ("2", "a")}, {("1", "a")}, {("1", "a"), ("2", "a")}]


async def test_a_value_too_long_for_a_key_stays_too_long_and_bounded(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table pages (path text)")
        await connection.execute("select unstale.watch('pages', '{path}')")
        after = await position(connection)
        await connection.execute(
            "insert into pages select repeat('ü', 1000000) || n from generate_series(1, 200) as n "
            "union all select 'short'"
        )
        keys = [key for entry in await changes(connection, after) for key in entry.keys or []]
        assert sorted({len((key or "").encode()) for key in keys}) == [5, 1026]


async def test_a_bulk_statement_is_written_in_chunks_that_fit_a_page(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table many (id bigint primary key, who uuid, n int)")
        await connection.execute("select unstale.watch('many', '{id}')")
        after = await position(connection)
        await connection.execute(
            "insert into many select n, gen_random_uuid(), n from generate_series(1, 10000) as n"
        )
        await connection.execute("update many set n = n + 1 where id <= 2000")
        entries = await changes(connection, after)
        assert {key for entry in entries for key in entry.keys or []} == {str(n) for n in range(1, 10001)}
        assert sum(len(entry.keys or []) for entry in entries) == 12000
        assert all(200 <= len(entry.keys or []) <= 500 for entry in entries[:-1])
        await connection.execute("select unstale.watch('many', '{who,id}')")
        await connection.execute("update many set n = n + 1")
        largest = await connection.fetchval("select max(pg_column_size(o.*)) from unstale.outbox as o")
        assert largest < 8160
        toasted = (
            "select pg_relation_size(reltoastrelid) from pg_class where oid = 'unstale.outbox'::regclass"
        )
        assert await connection.fetchval(toasted) == 0


@pytest.mark.parametrize("rows", [1, 3])
async def test_a_column_filter_lets_through_what_it_names_and_keys(database: Database, rows: int) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            "create table memories "
            "(id int primary key, owner int, content text, seen timestamptz, weight float8)"
        )
        await connection.execute("select unstale.watch('memories', '{owner}', '{content,weight}')")
        await connection.execute(
            "insert into memories select n, n % 2, 'a', now(), 0.1 from generate_series(1, $1) as n", rows
        )
        owners: set[tuple[str | None, ...]] = {(str(n % 2),) for n in range(1, rows + 1)}
        assert await tuples_of(
            connection,
            "update memories set seen = clock_timestamp()",
            "update memories set content = content",
            "update memories set content = 'b'",
            "update memories set content = null",
            "update memories set content = ''",
            "set extra_float_digits = -15",
            "update memories set weight = weight + 1e-12",
            "update memories set owner = 7 where id = 1",
            "delete from memories where id = 1",
        ) == [owners, owners, owners, owners, {("1",), ("7",)}, {("7",)}]


async def test_rows_that_swap_their_values_are_not_missed(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table seats (id int primary key, flight int, guest text)")
        await connection.execute("insert into seats values (1, 5, 'a'), (2, 5, 'b')")
        await connection.execute("select unstale.watch('seats', '{flight}', '{guest}')")
        assert await tuples_of(
            connection, "update seats set guest = case guest when 'a' then 'b' else 'a' end"
        ) == [{("5",)}]


async def test_column_filters_see_every_type(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create type point3 as (x float8, y float8, label text)")
        await connection.execute("create type mood as enum ('up', 'down')")
        pairs = {
            "numeric": ("1.0", "1.00"),
            "interval": ("'1 day'", "'24 hours'"),
            "jsonb": ("'{\"a\": 1.0}'", "'{\"a\": 1.00}'"),
            "json": ("'{}'", "'{ }'"),
            "float8": ("0", "'-0.0'::float8"),
            "float4": ("0.1", "0.10000001"),
            "bytea": ("'\\x00'", "'\\x0000'"),
            "text[]": ("'{a,b}'", "'{\"a,b\"}'"),
            "point": ("'(0,1)'", "'(1,0)'"),
            "point3": ("'(1,,\"\")'", "'(1,,)'"),
            "mood": ("'up'", "'down'"),
            "timestamptz": ("'2026-01-01 00:00:00.000001Z'", "'2026-01-01 00:00:00.000002Z'"),
            "tsvector": ("'a'", "'b'"),
            "int4range": ("'[1,2)'", "'[1,3)'"),
            "bpchar": ("'a'", "'b'"),
            "xid8": ("'1'", "'2'"),
        }
        for number, (type_name, (before, after)) in enumerate(pairs.items()):
            for rows in (1, 2):
                table = f"t{number}_{rows}"
                await connection.execute(f"create table {table} (id int primary key, v {type_name})")
                await connection.execute(
                    f"insert into {table} select n, {before} from generate_series(1, {rows}) n"
                )
                await connection.execute("select unstale.watch($1::text::regclass, '{id}', '{v}')", table)
                wanted: set[tuple[str | None, ...]] = {(str(n),) for n in range(1, rows + 1)}
                found = await tuples_of(
                    connection, f"update {table} set v = {before}", f"update {table} set v = {after}"
                )
                assert found == [wanted], (type_name, rows)
                found = await tuples_of(
                    connection, f"update {table} set v = null", f"update {table} set v = null"
                )
                assert found == [wanted], (type_name, rows)


async def test_every_way_to_write_is_captured(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table people (id int primary key, name text)")
        await connection.execute(
            "create table pets (id int primary key, owner int references people on delete cascade)"
        )
        await connection.execute("select unstale.watch('people', '{id}')")
        await connection.execute("select unstale.watch('pets', '{owner,id}')")

        async def keys(statement: str) -> list[set[tuple[str | None, ...]] | None]:
            return await tuples_of(connection, statement)

        after = await position(connection)
        await connection.copy_records_to_table("people", records=[(1, "a"), (2, "b")])
        assert [entry.tuples() for entry in await changes(connection, after)] == [{("1",), ("2",)}]
        upsert = (
            "insert into people values (2, 'c'), (3, 'c') on conflict (id) do update set name = excluded.name"
        )
        assert sorted(map(str, await keys(upsert))) == ["{('2',)}", "{('3',)}"]
        merge = (
            "merge into people as p using (values (3), (4), (1)) as v(id) on p.id = v.id "
            "when matched and p.id = 1 then delete when matched then update set name = 'm' "
            "when not matched then insert values (v.id, 'm')"
        )
        assert sorted(map(str, await keys(merge))) == ["{('1',)}", "{('3',)}", "{('4',)}"]
        cte = (
            "with gone as (delete from people where id = 4 returning id), "
            "new as (insert into people select id + 10, '' from gone returning id) "
            "update people set name = 'w' where id = 2"
        )
        assert sorted(map(str, await keys(cte))) == ["{('14',)}", "{('2',)}", "{('4',)}"]
        await connection.execute("insert into pets values (1, 2), (2, 2)")
        after = await position(connection)
        await connection.execute("delete from people where id = 2")
        assert sorted(str(entry.keys) for entry in await changes(connection, after)) == [
            "['2', '1', '2', '2']",
            "['2']",
        ]


async def test_a_rollback_takes_its_entries_along(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table people (id int primary key)")
        await connection.execute("select unstale.watch('people', '{id}')")
        after = await position(connection)
        async with connection.transaction():
            await connection.execute("insert into people values (1)")
            inner = connection.transaction()
            await inner.start()
            await connection.execute("insert into people values (2)")
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute("insert into people values (1)")
            await inner.rollback()
        assert [entry.keys for entry in await changes(connection, after)] == [["1"]]

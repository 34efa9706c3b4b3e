"""A capture never makes a statement fail, cannot be taken over, and leaves the writer's session as it was."""

# ruff: noqa: S608  (the names in these statements are the test's own)

from __future__ import annotations

from typing import Literal

import asyncpg
import pytest

from servers import Database, eventually
from servers.outbox import changes, connected, position, tuples_of

SHADOWS = """
create schema evil;
create table evil.log (who text);
grant usage on schema evil to public; grant insert on evil.log to public;
create function evil.note(a anyelement, b anyelement) returns boolean language plpgsql as
    $$ begin insert into evil.log values (current_user); return false; end $$;
create operator evil.= (leftarg = anyelement, rightarg = anyelement, function = evil.note);
create operator evil.<> (leftarg = anyelement, rightarg = anyelement, function = evil.note);
create operator evil.> (leftarg = anyelement, rightarg = anyelement, function = evil.note);
create function evil.count(a bigint) returns bigint language plpgsql as
    $$ begin insert into evil.log values (current_user); return 0; end $$;
create function evil.hashint8(a bigint) returns integer language plpgsql as
    $$ begin insert into evil.log values (current_user); return 0; end $$;
create function evil.row_number() returns bigint language plpgsql as
    $$ begin insert into evil.log values (current_user); return 0; end $$;
create function evil.cardinality(a anyarray) returns integer language plpgsql as
    $$ begin insert into evil.log values (current_user); return 0; end $$;
create table evil.new_rows (id int); create table evil.old_rows (id int); create table evil.outbox (id int);
create domain evil.text as pg_catalog.text check (value is null);
create domain evil.int8 as pg_catalog.int8 check (value is null);
"""


async def watched_people(connection: asyncpg.Connection, *, columns: str = "null") -> None:
    await connection.execute(
        f"""
        create table people (id int primary key, name text);
        insert into people select n, 'a' from generate_series(1, 20) as n;
        select unstale.watch('people', '{{id,name}}', {columns});
        grant select, insert, update, delete, truncate on people to authenticated;
        """
    )


async def test_a_writer_without_any_right_on_the_schema_is_captured(database: Database) -> None:
    async with connected(database.dsn) as owner:
        await watched_people(owner)
        await owner.execute("grant authenticated to postgres; alter table people enable row level security")
        await owner.execute("create policy own on people to authenticated using (id < 10) with check (true)")
        after = await position(owner)
        async with connected(database.dsn) as writer:
            await writer.execute("set role authenticated")
            await writer.execute("insert into people values (0, 'x')")
            await writer.execute("update people set name = 'y'")
            for forbidden in (
                "select * from unstale.outbox",
                "insert into unstale.outbox (watch, version) values (1, 1)",
                "select unstale.purge()",
                "select unstale.watch('people', '{id}')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await writer.execute(forbidden)
        await owner.execute("set row_security = off; delete from people where id = 20")
        inserted, updated, deleted = [entry.tuples(2) for entry in await changes(owner, after)]
        assert inserted == {("0", "x")}
        changed = {(str(n), name) for n in range(1, 10) for name in "ay"}
        assert updated == changed | {("0", "x"), ("0", "y")}
        assert deleted == {("20", "a")}


@pytest.mark.parametrize("columns", ["null", "'{name}'"])
async def test_the_writers_search_path_cannot_take_a_capture_over(database: Database, columns: str) -> None:
    async with connected(database.dsn) as connection:
        await watched_people(connection, columns=columns)
        await connection.execute(SHADOWS)
        await connection.execute(
            """
            create temporary table new_rows (id int); create temporary table old_rows (id int);
            create temporary table outbox (id int);
            set search_path = evil, pg_temp, public, pg_catalog;
            """
        )
        for statement in (
            "insert into public.people values (100, 'b')",
            "update public.people set name = 'c' where pg_catalog.int4eq(id, 100)",
            "update public.people set name = 'd'",
            "delete from public.people where pg_catalog.int4eq(id, 100)",
            "delete from public.people",
            "truncate public.people",
        ):
            await connection.execute(statement)
        await connection.execute("reset search_path")
        assert await connection.fetchval("select count(*) from evil.log") == 0
        assert await connection.fetchval("select count(*) from unstale.outbox where keys is not null") >= 5


async def test_a_cast_of_the_writers_own_does_not_run_with_our_rights(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await connection.execute(
            """
            create role mallory;
            grant all on schema public to mallory;
            set role mallory;
            create table caught (who text);
            create type mood as enum ('up', 'down');
            create type pair as (a int, b int);
            create function spy(m mood) returns text language plpgsql as
                $$ begin insert into public.caught values (current_user); return 'stolen'; end $$;
            create function spy(m pair) returns text language plpgsql as
                $$ begin insert into public.caught values (current_user); return 'stolen'; end $$;
            create cast (mood as text) with function spy(mood) as implicit;
            create cast (pair as text) with function spy(pair) as implicit;
            create table people (id int primary key, m mood, p pair);
            grant trigger on people to postgres;
            """
        )
    try:
        async with connected(database.dsn) as connection:
            await connection.execute("select unstale.watch('people', '{m}', '{p}')")
        async with connected(database.superuser_dsn) as connection:
            await connection.execute("set role mallory")
            await connection.execute("insert into people values (1, 'up', '(1,2)'), (2, 'down', null)")
            await connection.execute("update people set p = '(3,4)'")
            await connection.execute("update people set p = '(3,5)' where id = 1")
            assert await connection.fetchval("select count(*) from caught") == 0
            await connection.execute("reset role")
            assert (
                await connection.fetchval("select count(*) from unstale.outbox where keys is not null") == 3
            )
    finally:
        async with connected(database.superuser_dsn) as connection:
            await connection.execute("drop owned by mallory cascade; drop role mallory")


async def test_lastval_setseed_and_settings_of_the_writer_stay(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table orders (id serial primary key)")
        await connection.execute("select unstale.watch('orders', '{id}')")
        await connection.execute("select setseed(0.5)")
        expected = [await connection.fetchval("select random()") for _ in range(3)]
        await connection.execute("select setseed(0.5)")
        settings = "select name, setting from pg_settings where name <> 'transaction_isolation' order by name"
        before = await connection.fetch(settings)
        for value in expected:
            await connection.execute("insert into orders default values")
            assert await connection.fetchval("select random()") == value
            assert await connection.fetchval("select lastval() = max(id) from orders")
        assert await connection.fetch(settings) == before


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read", "serializable"])
async def test_every_isolation_level_and_the_purge_on_the_way(
    database: Database, isolation: Literal["read_committed", "repeatable_read", "serializable"]
) -> None:
    async with connected(database.dsn) as connection, connected(database.dsn) as other:
        await watched_people(connection)
        await connection.execute("select unstale.purge(1, interval '0')")
        # Every capture now does what one in a thousand does.
        source = await connection.fetchval("select prosrc from pg_proc where proname = 'capture_1_insert'")
        assert "operator(pg_catalog.%) 1000" in source
        await connection.execute(
            "select set_config('test.body', $1, false)",
            source.replace("operator(pg_catalog.%) 1000", "operator(pg_catalog.%) 1"),
        )
        await connection.execute(
            "do $$ begin execute format('create or replace function unstale.capture_1_insert() returns "
            "trigger language plpgsql security definer as %L', current_setting('test.body')); end $$"
        )
        for name in "bcd":
            await connection.execute("update people set name = $1", name)
        remaining = "select count(*) from unstale.outbox"
        before = await connection.fetchval(remaining)
        async with other.transaction(), connection.transaction(isolation=isolation):
            await other.execute("insert into people values (200, 'other')")
            await connection.execute("insert into people values (300, 'mine')")
            await connection.execute("insert into people values (301, 'mine')")
        after = await connection.fetchval(remaining)
        if isolation == "read_committed":
            assert after < before + 3
        else:
            # At these levels an update of the horizon could fail the writer's transaction, so there is none.
            assert after >= before
        names = await connection.fetch("select id from people where id >= 200 order by id")
        assert [row[0] for row in names] == [200, 300, 301]


async def test_a_purge_that_fails_does_not_hurt_the_writer(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await watched_people(connection)
        await connection.execute("alter table unstale.horizon rename to elsewhere")
        await connection.execute("select unstale.maintain()")
        await connection.execute("alter table unstale.elsewhere rename to horizon")


async def test_replica_role_prepared_transactions_and_odd_settings(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await watched_people(connection, columns="'{name}'")
        assert (
            len(
                await tuples_of(
                    connection,
                    "set session_replication_role = replica",
                    "update people set name = 'b' where id = 1",
                    "alter table people add column more int",
                    "update people set name = 'c' where id = 1",
                    "reset session_replication_role",
                    width=2,
                )
            )
            == 3
        )
        await connection.execute(
            """
            set standard_conforming_strings = off; set escape_string_warning = off; set backslash_quote = on;
            set bytea_output = escape; set datestyle = 'sql, dmy'; set extra_float_digits = -15;
            set transform_null_equals = on; set work_mem = '64kB'; set plpgsql.extra_errors = 'all';
            set plan_cache_mode = force_generic_plan; set enable_hashagg = off; set client_encoding = latin1;
            set statement_timeout = '60s'; set lock_timeout = '1s';
            set default_transaction_deferrable = on; set debug_parallel_query = on;
            """
        )
        await connection.execute("update people set name = chr(8364) || id")
        await connection.execute("update people set name = name || 'x' where id = 3")
        await connection.execute("select unstale.watch('people', '{name,id}')")
        await connection.execute("delete from people where id > 10")


async def test_nested_triggers_and_deferred_constraints(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            """
            create table a (id int primary key, n int default 0);
            create table b (id int primary key);
            create function bump() returns trigger language plpgsql as
                $$ begin update a set n = n + 1 where id = new.id; return null; end $$;
            create trigger bump after insert on b for each row execute function bump();
            create function fill() returns trigger language plpgsql as
                $$ begin insert into a values (new.id) on conflict do nothing; return null; end $$;
            create constraint trigger fill after insert on b deferrable initially deferred
                for each row execute function fill();
            select unstale.watch('a', '{id}');
            select unstale.watch('b', '{id}');
            insert into a values (1);
            """
        )
        after = await position(connection)
        async with connection.transaction():
            await connection.execute("insert into b values (1), (2)")
            await connection.execute("insert into a values (3)")
        found = sorted(str(entry.keys) for entry in await changes(connection, after))
        assert found == ["['1', '2']", "['1']", "['2']", "['3']"]


async def test_no_wake_up_unless_the_worker_sleeps(database: Database) -> None:
    async with connected(database.dsn) as writer, connected(database.dsn) as worker:
        await watched_people(writer)
        heard: list[str] = []

        async def settled() -> list[str]:
            # A notification of our own, after which everything that was sent before has arrived.
            await writer.execute("select pg_notify('unstale_wakeup', 'end')")
            await eventually(lambda: "end" in heard)
            before_end = heard[: heard.index("end")]
            heard.clear()
            return before_end

        await worker.add_listener("unstale_wakeup", lambda *message: heard.append(str(message[-1])))
        await writer.execute("update people set name = 'b' where id = 1")
        assert await settled() == []
        assert await worker.fetchval("select unstale.want_notify()") == []
        await writer.execute("update people set name = 'c' where id = 1")
        assert await settled() == [""]
        await writer.execute("update people set name = 'c' where id = 999")
        assert await settled() == []
        async with writer.transaction():
            await writer.execute("update people set name = 'd' where id = 1")
            await writer.execute("update people set name = 'e'")
        assert await settled() == [""]
        await worker.execute("select unstale.end_notify()")
        async with writer.transaction():
            await writer.execute("update people set name = 'f' where id = 1")
            # A silent writer is open: its commit goes unheard, so nobody may fall asleep before it ends.
            assert len(await worker.fetchval("select unstale.want_notify()")) == 1
        assert await worker.fetchval("select unstale.want_notify()") == []
        assert await settled() == []
        await writer.execute("truncate people")
        assert await settled() == [""]
        await worker.remove_listener("unstale_wakeup", lambda *_: None)
        await worker.reset()


async def test_two_sessions_watch_and_write_at_once(database: Database) -> None:
    async with connected(database.dsn) as connection, connected(database.dsn) as other:
        await watched_people(connection)
        async with connection.transaction():
            await connection.execute("select unstale.watch('people', '{id}')")
            # The captures were there already: no lock keeps writers away.
            await other.execute("set lock_timeout = '5s'; insert into people values (77, 'x')")
        assert await connection.fetchval("select max(version) from unstale.versions") == 2

"""Cost of watch, unwatch and followed DDL to others: locks, waiting, work by number of partitions."""

# ruff: noqa: S608  (the names in these statements are the test's own)

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from servers import Database, eventually
from servers.outbox import changes, connected, position, tuples_of
from unstale_worker.dev_servers import migrations_folder

FOLLOW_DDL = next(migrations_folder().glob("*_unstale_follow_ddl.sql")).read_text()

TREE = """
create table logs (id int, day int, hour int, primary key (id, day, hour)) partition by list (day);
create table logs1 partition of logs for values in (1) partition by list (hour);
create table logs2 partition of logs for values in (2) partition by list (hour);
select unstale.watch('logs', '{id}');
"""


@pytest.mark.parametrize("create", ["create table {0} partition of {1} for values in (5)",
                                    "create schema s_{0} "
                                    "create table {0} partition of public.{1} for values in (5)",
                                    "create table {0} (id int not null, day int not null, hour int not null);"
                                    "alter table {1} attach partition {0} for values in (5)"])  # fmt: skip
async def test_two_sessions_grow_two_branches_at_once(database: Database, create: str) -> None:
    async with connected(database.dsn) as one, connected(database.dsn) as two:
        await one.execute(TREE)
        for session in (one, two):
            await session.execute("set lock_timeout = '5s'")
        async with one.transaction():
            await one.execute(create.format("a", "logs1"))
            async with two.transaction():
                await two.execute(create.format("b", "logs2"))
        for table, day in (("a", 1), ("b", 2)):
            schema = f"s_{table}." if "schema" in create else ""
            assert await tuples_of(one, f"insert into {schema}{table} values (7, {day}, 5)") == [{("7",)}]
        assert await one.fetch("select * from unstale.check()") == []


async def test_two_sessions_drop_and_alter_two_branches_at_once(database: Database) -> None:
    async with connected(database.dsn) as one, connected(database.dsn) as two:
        await one.execute(TREE)
        await one.execute(
            "create table a partition of logs1 for values in (5);"
            "create table b partition of logs2 for values in (5);"
            "create table c partition of logs2 for values in (6)"
        )
        await two.execute("set lock_timeout = '5s'")
        async with one.transaction():
            await one.execute("alter table a set (fillfactor = 80); drop table a")
            async with two.transaction():
                await two.execute("alter table b set (fillfactor = 80); drop table c")
        assert await tuples_of(one, "insert into b values (7, 2, 5)") == [{("7",)}]
        assert await one.fetch("select * from unstale.check()") == []


async def test_a_partition_is_attached_while_its_parent_is_being_watched(database: Database) -> None:
    async with connected(database.dsn) as one, connected(database.dsn) as two:
        await one.execute(
            "create table logs (id int, day int) partition by list (day);create table logs1 (id int, day int)"
        )
        await one.execute("begin; alter table logs attach partition logs1 for values in (1)")
        watching = asyncio.create_task(two.execute("select unstale.watch('logs', '{id}')"))
        await eventually(
            lambda: one.fetchval("select count(*) from pg_stat_activity where query like '%unstale.watch%'"
                                 " and state = 'active' and wait_event is not null")
        )  # fmt: skip
        await one.execute("commit")
        await watching
        assert await tuples_of(one, "insert into logs1 values (7, 1)") == [{("7",)}]
        assert await one.fetch("select * from unstale.check()") == []


@pytest.mark.parametrize("call", ["watch('people', '{id}')", "unwatch('watched')"])
async def test_writers_pass_while_a_watch_waits_for_an_open_one(database: Database, call: str) -> None:
    table = "people" if call.startswith("watch") else "watched"
    async with (
        connected(database.dsn) as open_writer,
        connected(database.dsn) as waiting,
        connected(database.dsn) as writer,
    ):
        await writer.execute(
            "create table people (id int primary key); create table watched (id int primary key)"
        )
        await writer.execute("select unstale.watch('watched', '{id}')")
        await open_writer.execute(f"begin; insert into {table} values (1)")
        task = asyncio.create_task(waiting.execute(f"select unstale.{call}"))
        pid = waiting.get_server_pid()
        try:
            for number in range(2, 12):
                # It waits for the lock, or between two attempts: either way a writer gets through soon.
                await eventually(
                    lambda: writer.fetchval(
                        "select wait_event in ('relation', 'PgSleep') from pg_stat_activity where pid = $1",
                        pid,
                    )
                )
                await writer.execute("set statement_timeout = '10s'")
                await writer.execute(f"insert into {table} values ({number})")
            assert not task.done()
        finally:
            await open_writer.execute("commit")
        await task
        after = await position(writer)
        await writer.execute(f"insert into {table} values (99)")
        assert len(await changes(writer, after)) == (1 if table == "people" else 0)


@pytest.mark.parametrize("call", ["watch('people', '{id}')", "unwatch('watched')"])
async def test_a_watch_gives_up_in_time_and_changes_nothing(database: Database, call: str) -> None:
    async with connected(database.dsn) as open_writer, connected(database.dsn) as waiting:
        await waiting.execute(
            "create table people (id int primary key); create table watched (id int primary key)"
        )
        await waiting.execute("select unstale.watch('watched', '{id}')")
        await open_writer.execute("begin; insert into people values (1); insert into watched values (1)")
        await waiting.execute("set lock_timeout = '300ms'")
        with pytest.raises(asyncpg.LockNotAvailableError, match="writers of"):
            await waiting.execute(f"select unstale.{call}")
        assert await waiting.fetchval("show lock_timeout") == "300ms"
        await open_writer.execute("commit")
        assert await waiting.fetch("select * from unstale.check()") == []
        await waiting.execute(f"select unstale.{call}")


async def test_a_command_that_needs_captures_on_a_busy_parent_goes_through(database: Database) -> None:
    """What the parent then lacks is reported; the command and the writers of the parent are not held up."""
    async with connected(database.dsn) as open_writer, connected(database.dsn) as connection:
        await connection.execute(
            "create table years (id int, day int) partition by list (day);"
            "create table years2 partition of years for values in (2); create table logs (id int, day int);"
            "select unstale.watch('logs', '{id}')"
        )
        await open_writer.execute("begin; insert into years values (1, 2)")
        await connection.execute("set client_min_messages = error; set lock_timeout = '300ms'")
        await connection.execute("alter table years attach partition logs for values in (1)")
        assert await connection.fetch("select * from unstale.check() where severity = 'error'") != []
        await open_writer.execute("insert into years values (2, 2); commit")
        # The captures of the table itself go on.
        assert await tuples_of(connection, "insert into logs values (7, 1)") == [None]
        await connection.execute("select unstale.watch('logs', '{id}')")
        assert await tuples_of(connection, "insert into years values (8, 1)") == [{("8",)}]
        assert await connection.fetch("select * from unstale.check()") == []


async def calls(connection: asyncpg.Connection, command: str) -> dict[str, int]:
    """How often each function of unstale runs during a command; the command is rolled back."""
    await connection.execute("set track_functions = 'all'")
    change = connection.transaction()
    await change.start()
    sql = "select funcname, calls from pg_stat_xact_user_functions where schemaname = 'unstale'"
    before = dict((row[0], row[1]) for row in await connection.fetch(sql))
    await connection.execute(command)
    found = {row[0]: row[1] - before.get(row[0], 0) for row in await connection.fetch(sql)}
    await change.rollback()
    return {name: number for name, number in found.items() if number}


async def test_ddl_that_concerns_nobody_costs_the_same_with_any_number_of_watches(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        for number in range(30):
            await connection.execute(f"create table t{number} (id int primary key)")
            await connection.execute(f"select unstale.watch('t{number}', '{{id}}')")
        for command in (
            "create temp table scratch (id int primary key)",
            "create table plain (id serial primary key)",
        ):
            found = await calls(connection, command)
            assert set(found) <= {"on_ddl", "follow_leaf"}, command
            assert found["on_ddl"] == 1
        altered = await calls(connection, "create table plain (id int); alter table plain add column n int")
        assert set(altered) <= {"on_ddl", "follow_leaf", "concerned"}
        # What concerns one watch leaves the others alone.
        one = await calls(connection, "alter table t1 add column n int")
        assert one["generate"] == one["follow"] == 1


async def written(connection: asyncpg.Connection) -> list[int]:
    """Rows of unstale's own tables that this session has inserted, deleted and updated."""
    row = await connection.fetchrow(
        "select pg_stat_get_xact_tuples_inserted(c.oid), pg_stat_get_xact_tuples_deleted(c.oid), "
        "pg_stat_get_xact_tuples_updated('unstale.watched'::regclass) "
        "from pg_class as c where c.oid = 'unstale.captured'::regclass"
    )
    assert row is not None
    return list(row)


async def partitioned(connection: asyncpg.Connection, partitions: int) -> None:
    await connection.execute(
        f"""
        create table logs (id int, day int, primary key (id, day)) partition by list (day);
        do $$ begin for n in 1..{partitions} loop
            execute format('create table logs%s partition of logs for values in (%s)', n, n);
        end loop; end $$;
        """
    )


@pytest.mark.parametrize(
    "command",
    [
        "create table more partition of logs for values in (1000)",
        "create schema s create table more partition of public.logs for values in (1000)",
        "drop table logs3",
        "alter table logs3 set (fillfactor = 80)",
        "alter table logs3 disable trigger user",
    ],
)
async def test_one_partition_costs_the_same_among_few_and_many(
    database: Database, plain_database: Database, command: str
) -> None:
    found = []
    for ours, partitions in ((database, 4), (plain_database, 40)):
        async with connected(ours.superuser_dsn) as connection:
            if ours is plain_database:
                await connection.execute(FOLLOW_DDL)
            await partitioned(connection, partitions)
            await connection.execute("select unstale.watch('logs', '{id}')")
            used = await calls(connection, command)
            async with connection.transaction():
                before = await written(connection)
                await connection.execute(command)
                rows = [now - then for now, then in zip(await written(connection), before, strict=True)]
                locks = await connection.fetchval(
                    "select count(*) from pg_locks as l where l.pid = pg_backend_pid() and l.relation in "
                    "(select c.oid from pg_class as c where c.relname ~ '^logs')"
                )
            assert "family" not in used
            assert sum(rows) <= 1
            found.append((used, locks, rows))
    assert found[0] == found[1]


async def test_watching_many_partitions_takes_one_pass(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await partitioned(connection, 40)
        before = await connection.fetchval("select pg_current_xact_id()::text::bigint")
        await connection.execute("select unstale.watch('logs', '{id}')")
        # A subtransaction for each trigger was what made this quadratic.
        assert await connection.fetchval("select pg_current_xact_id()::text::bigint") - before < 10
        used = await calls(connection, "select unstale.watch('logs', '{id}')")
        assert used["family"] <= 10
        assert await connection.fetch("select * from unstale.check() where severity = 'error'") == []

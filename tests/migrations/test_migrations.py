"""The migrations work on every supported Postgres, for every kind of role, once and again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from servers import Database, run_apart
from servers.outbox import changes, connected, position, read, tuples_of
from unstale_worker.dev_servers import EmbeddedPostgres, migrations_folder

FILES = sorted(migrations_folder().glob("*.sql"))
VERSIONS = ["17", "18"]
if Path("/usr/lib/postgresql/15/bin/postgres").exists() or (
    (found := shutil.which("postgres")) and "/15/" in str(Path(found).resolve())
):
    VERSIONS.insert(0, "15")

pytestmark = pytest.mark.xdist_group("migrations")  # start each server once, not once per test process

# Every object of the schema with its definition and rights.
INVENTORY = """
select 'function ' || p.oid::regprocedure || ' ' || p.prosecdef || ' ' || coalesce(p.proacl::text, '') || ' '
    || coalesce(p.proconfig::text, '') || md5(p.prosrc)
from pg_proc as p where p.pronamespace = 'unstale'::regnamespace
union all
select 'relation ' || c.relname || ' ' || c.relkind::text || ' ' || c.relrowsecurity || ' '
    || coalesce(c.relacl::text, '')
from pg_class as c where c.relnamespace = 'unstale'::regnamespace
union all
select 'column ' || a.attrelid::regclass || ' ' || a.attname || ' '
    || format_type(a.atttypid, a.atttypmod) || a.attnotnull
from pg_attribute as a join pg_class as c on c.oid = a.attrelid
where c.relnamespace = 'unstale'::regnamespace and a.attnum > 0
union all
select 'event trigger ' || evtname || evtenabled::text from pg_event_trigger
union all
select 'trigger ' || t.tgname || t.tgrelid::regclass || t.tgenabled::text
from pg_trigger as t where t.tgname like 'unstale%'
order by 1
"""


async def apply(connection: asyncpg.Connection) -> None:
    """Each file in a transaction of its own, as the Supabase CLI does."""
    for file in FILES:
        async with connection.transaction():
            await connection.execute(file.read_text())


async def inventory(connection: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await connection.fetch(INVENTORY)]


@pytest.fixture(scope="module", params=VERSIONS)
def bare_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A server with no role but its superuser and one owner like Supabase's ``postgres``."""
    server = EmbeddedPostgres(
        version=request.param,
        settings={"fsync": "off", "max_prepared_transactions": "5", "dynamic_shared_memory_type": "mmap"},
    )
    run_apart(server.__aenter__())
    try:
        run_apart(create_owner(server))
        yield server
    finally:
        run_apart(server.close())


async def create_owner(server: EmbeddedPostgres) -> None:
    async with connected(server.superuser_dsn) as connection:
        sql = await connection.fetchval(
            "select format('create role owner login password %L nosuperuser createdb createrole replication "
            "bypassrls', $1::text)",
            server.password,
        )
        await connection.execute(sql)
        await connection.execute("create database owned owner owner")
        await connection.execute("create database privileged")


async def test_every_version_with_an_ordinary_owner(bare_server: EmbeddedPostgres) -> None:
    dsn = bare_server.dsn(user="owner", database="owned")
    async with connected(dsn) as connection:
        await apply(connection)
        first = await inventory(connection)
        await exercise(connection, dsn, event_triggers=False)
        await apply(connection)
        assert await inventory(connection) == first


async def test_every_version_with_a_superuser(bare_server: EmbeddedPostgres) -> None:
    dsn = bare_server.dsn(user="supabase_admin", database="privileged")
    async with connected(dsn) as connection:
        await apply(connection)
        first = await inventory(connection)
        assert len([line for line in first if line.startswith("event trigger")]) == 2
        await exercise(connection, dsn, event_triggers=True)
        await apply(connection)
        assert await inventory(connection) == first
        # Where somebody else installed it before, what a superuser watches belongs to the schema's owner.
        await connection.execute("drop schema unstale cascade")
        assert await connection.fetchval("select count(*) from pg_event_trigger") == 0


async def exercise(connection: asyncpg.Connection, dsn: str, *, event_triggers: bool) -> None:
    """Watch, write, read, alter, purge: the whole of it, in short."""
    await connection.execute(
        """
        create type mood as enum ('up', 'down');
        create table people (id bigint primary key, org uuid, ok boolean, m mood, note text);
        create table parts (id int, kind text) partition by list (kind);
        create table parts_a partition of parts for values in ('a');
        """
    )
    await connection.execute("select unstale.watch('people', '{id,ok,m}', '{note}')")
    await connection.execute("select unstale.watch('parts', '{id}')")
    after = await position(connection)
    assert await tuples_of(
        connection,
        "insert into people values (1, '00000000-0000-0000-0000-00000000000a', true, 'up', 'a'), "
        "(2, null, null, null, null)",
        "update people set org = null",
        "update people set note = 'b' where id = 1",
        "update people set note = 'c'",
        "delete from people where id = 2",
        width=3,
    ) == [
        {("1", "True", "up"), ("2", None, None)},
        {("1", "True", "up")},
        {("1", "True", "up"), ("2", None, None)},
        {("2", None, None)},
    ]
    assert await tuples_of(
        connection,
        "insert into parts_a values (1, 'a')",
        "update parts set id = 2",
        "truncate people",
    ) == [{("1",)}, {("1",), ("2",)}, None]
    if event_triggers:
        assert await tuples_of(
            connection,
            "alter table people rename column ok to fine",
            "insert into people values (3, null, false, 'down', null)",
            "alter table people drop column m",
            "insert into people values (4, null, false, null)",
            "create table parts_b partition of parts for values in ('b')",
            "insert into parts_b values (5, 'b')",
            width=1,
        ) == [None, {("3",), ("False",), ("down",)}, None, None, {("5",)}]
    # NOTIFY would make this fail; so where two-phase commit is possible, captures send none.
    assert await connection.fetchval("select unstale.want_notify()") == []
    async with connected(dsn) as writer:
        await writer.execute("begin; insert into parts values (9, 'a'); prepare transaction 'two-phase'")
    await connection.execute("select unstale.end_notify()")
    await connection.execute("commit prepared 'two-phase'")
    assert [entry.keys for entry in await changes(connection, after)][-1] == ["9"]
    if await connection.fetchval("select count(*) > 10 from pg_collation where collprovider = 'i'"):
        await connection.execute(
            """
            create collation no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
            create table names (name text collate no_case);
            """
        )
        await connection.execute("select unstale.watch('names', '{name}')")
        assert await tuples_of(connection, "insert into names values ('Bob'), ('bob'), ('bob')") == [
            {("Bob",), ("bob",)}
        ]
        await connection.execute("drop table names; drop collation no_case")
    assert await connection.fetchval("select unstale.purge(1000, interval '0')") > 5
    assert not (await read(connection, after)).covered
    await connection.execute("select unstale.unwatch(relation) from unstale.watched where state = 'watched'")
    await connection.execute("drop table people, parts; drop type mood")


async def test_captures_of_an_older_shape_become_what_they_are_now(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            """
            create table logs (id int, day int, primary key (id, day)) partition by list (day);
            create table logs1 partition of logs for values in (1);
            """
        )
        await connection.execute("select unstale.watch('logs1', '{id}')")
        first = await inventory(connection)
        # Before captures were put on parents, and with other bodies.
        await connection.execute(
            """
            do $$
            declare
                operation text;
            begin
                perform set_config('unstale.generating', 'on', true);  -- no event trigger follows
                foreach operation in array '{insert,update,delete,truncate}'::text[] loop
                    execute format('drop trigger unstale_1_%s on logs', operation);
                    execute format('create or replace function unstale.capture_1_%s() returns trigger '
                        'language plpgsql security definer as %L', operation, 'begin return null; end');
                end loop;
                delete from unstale.captured where relation = 'logs'::regclass;
            end
            $$;
            """
        )
        assert await connection.fetchval("select count(*) from unstale.check()") == 8
        await apply(connection)
        assert await inventory(connection) == first
        assert await connection.fetch("select * from unstale.check()") == []
        assert await tuples_of(connection, "insert into logs values (1, 1)", "update logs set id = 2") == [
            {("1",)},
            {("1",), ("2",)},
        ]


async def test_what_a_superuser_watches_belongs_to_the_schemas_owner(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await connection.execute(
            "create table people (id int primary key); select unstale.watch('people', '{id}')"
        )
        owners = await connection.fetch(
            "select distinct pg_get_userbyid(proowner) from pg_proc where proname like 'capture%'"
        )
        assert [row[0] for row in owners] == ["postgres"]


async def test_nothing_is_open_to_the_api_roles(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            "create table people (id int primary key); select unstale.watch('people', '{id}')"
        )
        for role in ("anon", "authenticated"):
            assert not await connection.fetchval(
                "select has_schema_privilege($1::name, 'unstale', 'usage')", role
            )
        service = (
            "because",
            "check",
            "position_before",
            "purge",
            "purge_wakeups",
            "read",
            "run_query",
            "token",
            "want_wakeups",
            "watch_states",
        )
        for role in ("anon", "authenticated", "service_role"):
            tables = await connection.fetch(
                "select relname from pg_class "
                "where relnamespace = 'unstale'::regnamespace and relkind in ('r', 'v') "
                "and has_table_privilege($1::name, oid, 'select, insert, update, delete, truncate')",
                role,
            )
            assert [row[0] for row in tables] == (["watch_versions"] if role == "service_role" else [])
            functions = await connection.fetch(
                "select proname from pg_proc where pronamespace = 'unstale'::regnamespace "
                "and has_function_privilege($1::name, oid, 'execute') order by proname",
                role,
            )
            assert [row[0] for row in functions] == list(service if role == "service_role" else ())


async def test_tables_have_row_level_security_and_functions_a_fixed_search_path(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            "create table people (id int primary key); select unstale.watch('people', '{id}')"
        )
        open_tables = await connection.fetch(
            "select relname from pg_class where relnamespace = 'unstale'::regnamespace and relkind = 'r' "
            "and not relrowsecurity"
        )
        assert open_tables == []
        loose = await connection.fetch(
            "select proname from pg_proc "
            "where pronamespace = 'unstale'::regnamespace "
            "and not coalesce('search_path=\"\"' = any (proconfig), false)"
        )
        assert loose == []


async def test_everything_is_commented(database: Database) -> None:
    async with connected(database.dsn) as connection:
        silent = await connection.fetch(
            """
            select c.relname from pg_class as c
            where c.relnamespace = 'unstale'::regnamespace and c.relkind in ('r', 'v')
                and obj_description(c.oid, 'pg_class') is null
            union all
            select p.proname from pg_proc as p
            where p.pronamespace = 'unstale'::regnamespace and obj_description(p.oid, 'pg_proc') is null
            """
        )
        assert silent == []


async def test_the_worker_role_has_no_password_and_no_powers(database: Database) -> None:
    assert not any("password '" in file.read_text().replace("password '...'", "") for file in FILES)
    async with connected(database.superuser_dsn) as connection:
        row = await connection.fetchrow(
            "select rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls "
            "from pg_roles where rolname = 'unstale_worker'"
        )
        assert row is not None
        assert tuple(row) == (True, False, False, False, False, False)

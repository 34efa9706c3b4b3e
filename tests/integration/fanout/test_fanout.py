"""Fan-out queries against a real Postgres: one changed row, many keys."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from servers import Database
from unstale_worker.fanout.queries import check_queries, run_queries
from unstale_worker.rules import Plan, Rules

Connection = asyncpg.Connection
SETTINGS = {"row_security": "off", "search_path": ""}

TABLES = """
create type public.plan as enum ('free', 'it''s paid');
create table public.organizations (id bigint primary key, plan public.plan, "Active" bool, slug text);
create table public.members (org_id bigint, user_id bigint, note text, ref uuid, at timestamptz);
create table public."Plan Users" ("userId" text, plan public.plan);
insert into public.members (org_id, user_id, note)
    values (1, 11, 'a'), (1, 12, null), (2, 21, E'two\\nlines'), (2, 22, repeat('x', 600));
insert into public."Plan Users" values ('ann', 'free'), ('bob', 'it''s paid');
"""


@pytest.fixture
async def connection(empty_database: Database) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(empty_database.superuser_dsn, server_settings=SETTINGS)
    await opened.execute(TABLES)
    yield opened
    await opened.close()


def rules(query: str, keys: str = "user:{user_id}:settings", table: str = "public.organizations") -> Rules:
    return Rules.parse(f"[[watch]]\ntable = '{table}'\nkeys = ['{keys}']\nquery = '''{query}'''\n")


async def planned(
    connection: Connection, given: Rules, *rows: tuple[str | None, ...], **options: int
) -> Plan:
    """Plan changes of ``rows`` and run the queries; no failure is expected."""
    plan = plan_of(given, *rows)
    assert await run_queries(connection, given, plan, **options) == []
    assert plan.queries == {}
    return plan


def plan_of(given: Rules, *rows: tuple[str | None, ...]) -> Plan:
    plan = Plan()
    ((table, needs),) = given.tables.items()
    given.plan(*table, needs.keys, [value for row in rows for value in row], plan)
    return plan


MEMBERS = "select user_id from public.members where org_id = {id}"


async def test_one_changed_row_concerns_many_keys(connection: Connection) -> None:
    plan = await planned(connection, rules(MEMBERS), ("1",))
    assert set(plan.keys) == {"user:11:settings", "user:12:settings"}
    assert plan.patterns == set()


async def test_operators_of_two_characters_stay_whole(connection: Connection) -> None:
    query = "select user_id from public.members where org_id >= {id} and user_id <> 21 -- not her\n;"
    plan = await planned(connection, rules(query), ("2",))
    assert set(plan.keys) == {"user:22:settings"}


async def test_all_rows_of_a_batch_are_asked_for_at_once(connection: Connection) -> None:
    statements: list[str] = []
    connection.add_query_logger(lambda record: statements.append(record.query))
    plan = await planned(connection, rules(MEMBERS), ("1",), ("2",), ("1",), ("99",))
    assert set(plan.keys) == {f"user:{user}:settings" for user in (11, 12, 21, 22)}
    assert sum("members" in statement for statement in statements) <= 2  # prepared and fetched


async def test_more_rows_than_fit_in_one_run(connection: Connection) -> None:
    await connection.execute(
        "insert into public.members (org_id, user_id) select n, n from generate_series(1000, 5999) n"
    )
    plan = await planned(connection, rules(MEMBERS), *((str(n),) for n in range(1000, 6000)))
    assert len(plan.keys) == 5000


async def test_a_query_that_returns_too_much_costs_its_pattern(connection: Connection) -> None:
    plan = await planned(connection, rules(MEMBERS), ("1",), ("2",), max_rows=3)
    assert plan.patterns == {"user:*:settings"}


async def test_nulls_and_unusable_answers(connection: Connection) -> None:
    given = rules("select note from public.members where org_id = {id}", keys="note:{note}")
    assert set((await planned(connection, given, ("1",))).keys) == {"note:a"}  # a null makes no key
    assert (await planned(connection, given, ("2",))).patterns == {"note:*"}


async def test_arguments_are_bound_and_never_text(connection: Connection) -> None:
    hostile = "'; drop table public.members; --"
    given = rules("select user_id from public.members where note = {slug}")
    await connection.execute("insert into public.members values (9, 99, $1)", hostile)
    assert set((await planned(connection, given, (hostile,))).keys) == {"user:99:settings"}


async def test_arguments_have_the_columns_own_types(connection: Connection) -> None:
    given = rules(
        """select "userId" from public."Plan Users" u where u.plan = {plan} and {"Active"}""",
        keys="user:{userId}",
    )
    assert given.tables[("public", "organizations")].keys == ("Active", "plan")
    plan = await planned(connection, given, ("True", "it's paid"), ("False", "free"))
    assert set(plan.keys) == {"user:bob"}


async def test_a_null_argument_is_a_null(connection: Connection) -> None:
    given = rules("select user_id from public.members where {slug} is null and org_id = 1")
    assert len((await planned(connection, given, (None,))).keys) == 2


async def test_the_querys_columns_win_over_the_rows(connection: Connection) -> None:
    given = rules(
        "select user_id, user_id * 2 as id from public.members m where m.org_id = {id}",
        keys="o:{id}:s:{slug}:u:{user_id}",
    )
    assert given.tables[("public", "organizations")].keys == ("id", "slug")
    plan = await planned(connection, given, ("1", "acme"))
    assert set(plan.keys) == {"o:22:s:acme:u:11", "o:24:s:acme:u:12"}


async def test_values_are_as_python_prints_them(connection: Connection) -> None:
    given = rules(
        "select {id} > 1 as big, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid as u, 'free'::public.plan as p",
        keys="k:{big}:{u}:{p}:{id}",
    )
    plan = await planned(connection, given, ("1",), ("2",))
    uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    assert set(plan.keys) == {f"k:False:{uuid}:free:1", f"k:True:{uuid}:free:2"}


@pytest.mark.parametrize(
    "query",
    [
        "with m as (select * from public.members where org_id = {id}) select user_id from m -- done",
        "select user_id from members where org_id = {id};",
        "select user_id from public.members where org_id = {id} union select 11 limit 10",
        "(select m.user_id from public.members m where exists (select where m.org_id = {id}))",
        "select user_id /* {id} */ from public.members where org_id = {id} and note is distinct from '{'",
    ],
)
async def test_any_select_can_be_asked(connection: Connection, query: str) -> None:
    given = rules(query)
    assert await check_queries(connection, given) == []
    assert "user:11:settings" in (await planned(connection, given, ("1",))).keys


async def test_a_query_without_placeholders_runs_for_any_change(connection: Connection) -> None:
    given = rules("select user_id from public.members where org_id = 1", keys="user:{user_id}")
    plan = Plan()
    given.plan("public", "organizations", ["id"], ["5", "6"], plan)
    assert await run_queries(connection, given, plan) == []
    assert set(plan.keys) == {"user:11", "user:12"}


FAILING = [
    ("select user_id from public.nothing where org_id = {id}", "42P01", "does not exist"),
    ("select user_id from public.members where nothing = {id}", "42703", "does not exist"),
    ("select user_id from public.members where org_id = {gone}", "42703", "has no column gone"),
    ("select m.* from (select note from members where org_id = {id}) m", None, "returns no column user_id"),
    ("select at as user_id from public.members where org_id = {id}", None, "type"),
    ("select ref::text::json as user_id from public.members where org_id = {id}", None, "type"),
    ("with x as (delete from public.members returning user_id) select user_id from x", "0A000", "refused"),
    ("select user_id from public.members where org_id = {id} for update", "25006", "refused"),
]


@pytest.mark.parametrize(("query", "code", "text"), FAILING)
async def test_a_wrong_query_is_reported_at_start(
    connection: Connection, query: str, code: str | None, text: str
) -> None:
    (failure,) = await check_queries(connection, rules(query))
    assert failure.code == code
    assert text in str(failure)
    assert "line 1" in str(failure)


@pytest.mark.parametrize("query", [query for query, _, _ in FAILING])
async def test_a_query_that_fails_costs_its_pattern_and_the_rest_goes_on(
    connection: Connection, query: str
) -> None:
    """Failure case 20."""
    await connection.execute("update public.members set at = now(), ref = gen_random_uuid()")
    both = Rules.parse(
        f"[[watch]]\ntable = 'organizations'\nkeys = ['bad:{{user_id}}']\nquery = '''{query}'''\n"
        f"[[watch]]\ntable = 'organizations'\nkeys = ['good:{{user_id}}']\nquery = '''{MEMBERS}'''\n"
    )
    plan = Plan()
    both.plan("public", "organizations", ["gone", "id"], ["1", "1"], plan)
    (failure,) = await run_queries(connection, both, plan)
    assert failure.watch is both.watches[0]
    assert plan.patterns == {"bad:*"}
    assert set(plan.keys) == {"good:11", "good:12"}
    assert await connection.fetchval("select count(*) from public.members") == 4


async def test_a_column_that_nobody_gives_is_reported_at_start(connection: Connection) -> None:
    given = rules("select note from public.members where org_id = {id}")
    (failure,) = await check_queries(connection, given)
    assert "neither the query nor public.organizations has a column user_id" in str(failure)


async def test_a_failure_quotes_no_row_value(connection: Connection) -> None:
    given = rules("select user_id from public.members where org_id = {slug}::bigint")
    plan = plan_of(given, ("secret",))
    (failure,) = await run_queries(connection, given, plan)
    assert failure.code == "22P02"
    assert "secret" not in str(failure)
    assert plan.patterns == {"user:*:settings"}


async def test_a_slow_query_is_cut_off(connection: Connection) -> None:
    given = rules("select user_id from public.members, pg_sleep(60) where org_id = {id}")
    plan = plan_of(given, ("1",))
    (failure,) = await run_queries(connection, given, plan, timeout=0.05)
    assert "timed out after 0." in str(failure)
    assert plan.patterns == {"user:*:settings"}
    assert await connection.fetchval("select 1") == 1


ROLE = """
do $$ begin create role unstale_worker; exception when duplicate_object or unique_violation then null; end $$;
grant usage on schema public to unstale_worker;
grant select on public.members to unstale_worker;
alter table public.members enable row level security;
"""
OPEN = "create policy p on public.members for select to unstale_worker using (true);"
OWNED = """
create view public.owned as select * from public.members;
grant select on public.owned to unstale_worker;
"""
READER = """
create function public.reader(wanted bigint) returns setof bigint language plpgsql as
    'begin return query select m.user_id from public.members m where m.org_id = wanted; end';
"""


@pytest.mark.parametrize(
    ("policies", "query", "seen"),
    [
        ("", MEMBERS, False),
        (OPEN, MEMBERS, True),
        ("create policy p on public.members using (true);", MEMBERS, True),
        (
            "create policy p on public.members for select to unstale_worker using (user_id > 11);",
            MEMBERS,
            False,
        ),
        ("create policy p on public.members for select to pg_monitor using (true);", MEMBERS, False),
        ("create policy p on public.members for update to unstale_worker using (true);", MEMBERS, False),
        (OPEN + "create policy q on public.members as restrictive using (user_id > 11);", MEMBERS, False),
        (OWNED, "select user_id from owned where org_id = {id}", True),  # reads with its owner's rights
        (OPEN + OWNED, "select user_id from owned where org_id = {id}", True),
        (OPEN + READER, "select user_id from reader({id}) as r(user_id)", True),
        (READER, "select user_id from reader({id}) as r(user_id)", False),
    ],
)
async def test_policies_never_hide_a_row_silently(
    connection: Connection, policies: str, query: str, seen: bool
) -> None:
    await connection.execute(ROLE + policies + "set role unstale_worker")
    given = rules(query)
    plan = plan_of(given, ("1",))
    failures = await run_queries(connection, given, plan)
    if seen:
        assert failures == []
        assert set(plan.keys) == {"user:11:settings", "user:12:settings"}
        assert not plan.patterns
    else:
        assert [failure.code for failure in failures] == ["42501"]
        assert "unstale migration" in str(failures[0])
        assert plan.patterns == {"user:*:settings"}
    if "reader" not in query:  # what a function reads shows only when it runs
        assert [failure.code for failure in await check_queries(connection, given)] == ["42501"] * (not seen)


async def test_partitions_are_under_their_parents_policies(connection: Connection) -> None:
    await connection.execute(ROLE)
    await connection.execute(
        "create table public.parts (org_id bigint, user_id bigint) partition by list (org_id);"
        "create table public.part_1 partition of public.parts for values in (1);"
        "insert into public.parts values (1, 11);"
        "alter table public.parts enable row level security;"
        "alter table public.part_1 enable row level security;"
        "create policy p on public.parts for select to unstale_worker using (true);"
        "grant select on public.parts to unstale_worker; set role unstale_worker"
    )
    plan = await planned(connection, rules("select user_id from parts where org_id = {id}"), ("1",))
    assert set(plan.keys) == {"user:11:settings"}


async def test_a_table_without_grant_is_reported(connection: Connection) -> None:
    await connection.execute(ROLE)
    await connection.execute("revoke select on public.members from unstale_worker; set role unstale_worker")
    (failure,) = await check_queries(connection, rules(MEMBERS))
    assert failure.code == "42501"
    assert "unstale migration" in str(failure)


async def test_a_broken_connection_is_raised_not_blamed_on_the_query(
    connection: Connection, empty_database: Database
) -> None:
    other = await asyncpg.connect(empty_database.superuser_dsn, server_settings=SETTINGS)
    await connection.execute("select pg_terminate_backend($1)", other.get_server_pid())
    given = rules(MEMBERS)
    plan = plan_of(given, ("1",))
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await run_queries(other, given, plan)
    assert plan.queries
    assert not plan.patterns
    await other.close()


ALTERED = {
    "a type": "alter table public.members alter column user_id type text",
    "a type of what is compared": "alter table public.members alter column org_id type int",
    "a column more": "alter table public.members add column more int",
    "a column less": "alter table public.members drop column note",
    "another table of the name": (
        "alter table public.members rename to old; create table public.members as table public.old"
    ),
    "a view of the name": (
        "alter table public.members rename to old; create view public.members as "
        "select org_id::int, user_id::text from public.old"
    ),
    "the argument's type": "alter table public.organizations alter column id type int",
    "statements gone, as behind a pooler": "deallocate all",
}


@pytest.mark.parametrize("change", ALTERED)
@pytest.mark.parametrize("query", [MEMBERS, "select * from public.members where org_id = {id}"])
async def test_a_table_that_is_altered_costs_no_pattern(
    connection: Connection, empty_database: Database, change: str, query: str
) -> None:
    """Postgres refuses what it has kept: "cached plan must not change result type" and the like."""
    given = rules(query)
    for _ in range(7):  # from the sixth run on, Postgres keeps a plan of a prepared statement
        await planned(connection, given, ("1",))
    if change.startswith("statements"):
        await connection.execute(ALTERED[change])
    else:
        other = await asyncpg.connect(empty_database.superuser_dsn)
        await other.execute(ALTERED[change])
        await other.close()
    plan = await planned(connection, given, ("1",))
    assert set(plan.keys) == {"user:11:settings", "user:12:settings"}
    assert plan.patterns == set()


async def test_a_query_that_is_refused_twice_has_failed(connection: Connection) -> None:
    given = rules(MEMBERS)
    await planned(connection, given, ("1",))
    await connection.execute("drop table public.members")
    plan = plan_of(given, ("1",))
    (failure,) = await run_queries(connection, given, plan)
    assert failure.code == "42P01"
    assert plan.patterns == {"user:*:settings"}

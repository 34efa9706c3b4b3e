"""Fan-out queries over HTTPS answer what they answer over a connection: keys, patterns and failures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from servers import Database
from supabase_double import SupabaseDouble
from unstale.errors import MigrationMissing
from unstale_worker.fanout import queries
from unstale_worker.migration.query_function import create_query, query_hash
from unstale_worker.rules import Plan, Rules
from unstale_worker.sources import rpc_queries
from unstale_worker.sources.rpc import Key, Project, Rpc
from workers import connected

TABLES = """
create type public.plan as enum ('free', 'it''s paid');
create domain public.short as text not null check (length(value) < 10);
create table public.organizations (
    id bigint primary key, plan public.plan, "Active" bool, slug text, code public.short, flat int
);
create table public.members (
    org_id bigint, user_id bigint, note text, ref uuid, at timestamptz, "M m" public.plan,
    padded char(4), ok bool, price numeric, tags text[], code public.short default 'd');
insert into public.members (org_id, user_id, note, ref, at, "M m", padded, ok, price, tags) values
    (1, 11, 'a', '00000000-0000-0000-0000-00000000000A', '2026-11-22', 'it''s paid', 'ab', true, 1.50, '{x}'),
    (1, 12, null, null, null, null, null, false, null, null),
    (2, 21, E'two\\nlines', null, null, null, null, null, null, null),
    (2, 22, repeat('x', 600), null, null, null, null, null, null, null);
create view public.people as select * from public.members;
grant select on public.members, public.people to service_role;
"""


@dataclass(slots=True)
class Both:
    """One database, by both ways."""

    connection: asyncpg.Connection
    rpc: Rpc
    double: SupabaseDouble

    async def push(self, rules: Rules) -> None:
        for watch in rules.watches:
            await self.connection.execute(create_query(watch, reads=()))


@pytest.fixture
async def both(database: Database) -> AsyncIterator[Both]:
    async with connected(database.dsn) as connection, SupabaseDouble(database) as double:
        await connection.execute(TABLES)
        rpc = Rpc(Project(double.url, Key(double.keys.secret), timeout=5))
        yield Both(connection, rpc, double)
        await rpc.close()


def rules(query: str, keys: str = "user:{user_id}:settings") -> Rules:
    return Rules.parse(
        f"[[watch]]\ntable = 'public.organizations'\nkeys = ['{keys}']\nquery = '''{query}'''\n"
    )


def planned(given: Rules, *rows: tuple[str | None, ...]) -> Plan:
    plan = Plan()
    ((table, needs),) = given.tables.items()
    given.plan(*table, needs.keys, [value for row in rows for value in row], plan)
    assert plan.queries
    return plan


MEMBERS = "select user_id from public.members where org_id = {id}"
CASES: dict[str, tuple[Rules, list[tuple[str | None, ...]]]] = {
    "many rows": (rules(MEMBERS), [("1",), ("2",), ("1",), ("99",)]),
    "no answer": (rules(MEMBERS), [("99",)]),
    "a null": (rules(MEMBERS), [(None,)]),
    "the schema may be left out": (rules("select user_id from members where org_id = {id}"), [("1",)]),
    "a view": (rules("select user_id from public.people where org_id = {id}"), [("1",)]),
    "nulls in answers": (rules("select note from members where org_id = {id}", "n:{note}"), [("1",)]),
    "unusable answers": (rules("select note from members where org_id = {id}", "n:{note}"), [("2",)]),
    "an enum with a blank in its column": (
        rules('select "M m" from members where org_id = {id}', 'n:{"M m"}'),
        [("1",)],
    ),
    "a padded character": (rules("select padded from members where org_id = {id}", "n:{padded}"), [("1",)]),
    "a boolean": (rules("select ok from members where org_id = {id}", "n:{ok}"), [("1",)]),
    "a uuid": (rules("select ref from members where org_id = {id}", "n:{ref}"), [("1",)]),
    "a domain": (rules("select code from members where org_id = {id}", "n:{code}"), [("1",)]),
    "a time stamp makes no key": (rules("select at from members where org_id = {id}", "n:{at}"), [("1",)]),
    "a number with decimals makes no key": (
        rules("select price from members where org_id = {id}", "n:{price}"),
        [("1",)],
    ),
    "an array makes no key": (rules("select tags from members where org_id = {id}", "n:{tags}"), [("1",)]),
    "arguments in their own types": (
        rules('select user_id from members m where m."M m" = {plan} and {"Active"}'),
        [("True", "it's paid"), ("False", "free")],
    ),
    "a domain as an argument": (rules("select 7 as user_id where {code} = 'c'"), [("c",)]),
    "hostile arguments": (
        rules("select user_id from members where note = {slug}"),
        [("'; drop table public.members; --",), ("$unstale0$",), ('"',), ("a",)],
    ),
    "the query's columns win over the row's": (
        rules("select user_id as id from members where org_id = {id}", "x:{id}:{slug}"),
        [("1", "slug")],
    ),
    "both kinds of columns in a key": (rules(MEMBERS, "org:{id}:user:{user_id}"), [("1",), ("2",)]),
    "keys without a placeholder": (rules(MEMBERS, "all of it"), [("1",)]),
    "keys without a placeholder, and no answer": (rules(MEMBERS, "all of it"), [("99",)]),
    "quotes and backslashes": (
        rules("select user_id from members where org_id = {id} and note <> E'\\\\' and $a$it's$a$ <> ''"),
        [("1",)],
    ),
    "a comment at the end": (
        rules("select user_id from members where org_id = {id} -- {not} this"),
        [("1",)],
    ),
    "a table that is not there": (rules("select user_id from nobodys where org_id = {id}"), [("1",)]),
    "a column that is not there": (
        rules("select nothing from members where org_id = {id}", "n:{nothing}"),
        [("1",)],
    ),
    "a column that the query does not return": (
        rules("select org_id from members where org_id = {id}"),
        [("1", "5")],
    ),
    "an argument that is no number": (rules(MEMBERS), [("none",)]),
    "a division by zero": (rules("select 1 / ({flat} - 1) as user_id"), [("1",)]),
}


@pytest.mark.parametrize("case", CASES)
async def test_both_ways_answer_the_same(both: Both, case: str) -> None:
    given, rows = CASES[case]
    await both.push(given)
    here, there = planned(given, *rows), planned(given, *rows)
    failed_here = await queries.run_queries(both.connection, given, here)
    failed_there = await rpc_queries.run_queries(both.rpc, given, there)
    assert (set(there.keys), there.patterns, there.queries) == (set(here.keys), here.patterns, {})
    assert [bool(failure.remedy) for failure in failed_there] == [True for _ in failed_here]
    assert [failure.code for failure in failed_there] in (
        [failure.code for failure in failed_here],
        ["42703" for _ in failed_here],  # Postgres itself misses what we look for in its answer
    )
    checked_here = await queries.check_queries(both.connection, given)
    checked_there = await rpc_queries.check_queries(both.rpc, given)
    assert len(checked_here) == len(checked_there)


async def test_the_cases_show_something(both: Both) -> None:
    given, rows = CASES["many rows"]
    await both.push(given)
    plan = planned(given, *rows)
    assert await rpc_queries.run_queries(both.rpc, given, plan) == []
    assert set(plan.keys) == {f"user:{user}:settings" for user in (11, 12, 21, 22)}
    assert [request.function for request in both.double.rest.requests] == ["unstale_fanout"]


async def test_a_query_that_returns_too_much_costs_its_pattern(both: Both) -> None:
    given = rules(MEMBERS)
    await both.push(given)
    await both.connection.execute(
        "insert into public.members (org_id, user_id) select n, n from generate_series(1000, 3999) n"
    )
    plan = planned(given, *((str(n),) for n in range(1000, 4000)))
    assert await rpc_queries.run_queries(both.rpc, given, plan, max_rows=2_500) == []
    assert plan.patterns == {"user:*:settings"}
    plan = planned(given, *((str(n),) for n in range(1000, 4000)))
    assert await rpc_queries.run_queries(both.rpc, given, plan) == []
    assert (len(plan.keys), plan.patterns) == (3_000, set())


async def test_a_policy_that_would_hide_rows_is_an_error(both: Both, database: Database) -> None:
    given = rules(MEMBERS)
    await both.push(given)
    async with connected(database.superuser_dsn) as admin:
        await both.connection.execute("alter table public.members enable row level security")
        await admin.execute("alter role service_role nobypassrls")
        try:
            plan = planned(given, ("1",))
            (failure,) = await rpc_queries.run_queries(both.rpc, given, plan)
            assert (failure.code, plan.patterns) == ("42501", {"user:*:settings"})
        finally:
            await admin.execute("alter role service_role bypassrls")


async def test_a_query_that_takes_too_long_costs_its_pattern(both: Both) -> None:
    given = rules("select user_id from public.members, pg_catalog.pg_sleep(3) where org_id = {id}")
    await both.push(given)
    both.double.rest.timeout = "100ms"
    plan = planned(given, ("1",))
    (failure,) = await rpc_queries.run_queries(both.rpc, given, plan)
    assert (failure.code, plan.patterns) == ("57014", {"user:*:settings"})


async def test_a_function_that_is_gone_costs_its_pattern_and_stops_a_start(both: Both) -> None:
    given = rules(MEMBERS)
    plan = planned(given, ("1",))
    (failure,) = await rpc_queries.run_queries(both.rpc, given, plan)
    assert "no function for its current text" in str(failure)
    assert plan.patterns == {"user:*:settings"}
    with pytest.raises(MigrationMissing, match="line 1"):
        await rpc_queries.check_queries(both.rpc, given)


def test_the_hash_differs_whenever_the_function_would() -> None:
    same = [MEMBERS, MEMBERS.replace("from", "  from /* a comment */ "), MEMBERS + "  ;"]
    other = [
        rules(MEMBERS.replace("user_id", "user_id + 1 as user_id")),
        rules(MEMBERS, "user:{user_id}:{id}"),
        rules(MEMBERS.replace("{id}", "{flat}")),
    ]
    hashes = {query_hash(rules(query).watches[0]) for query in same}
    assert len(hashes) == 1
    assert len(hashes | {query_hash(given.watches[0]) for given in other}) == 4

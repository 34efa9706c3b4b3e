"""Fan-out queries: the placeholders, columns and tables found in a query's text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale_worker.rules import Query
from unstale_worker.rules.identifiers import NameMistake
from unstale_worker.rules.query_tables import outputs, tables_of

HOLE = '"unstale changed"'


@pytest.mark.parametrize(
    ("text", "columns", "bound"),
    [
        ("table t where b = {id}", ("id",), f'table t where b = {HOLE}."id"'),
        ("select {b}, {a}, {b}", ("a", "b"), f'select {HOLE}."b", {HOLE}."a", {HOLE}."b"'),
        (
            "select a->>'b' -- {z}\nfrom t where c<>{id} and d >= 1 /* ; */ ; ;",
            ("id",),
            f"select a->>'b'  \nfrom t where c<>{HOLE}.\"id\" and d >= 1",
        ),
        ('select {"My ""Id"}', ('My "Id',), f'select {HOLE}."My ""Id"'),
        ("select '{}', e'\\'{', $$ {x} $$, $a${y}$$ $a$ -- {z}\n, {id}::int /* {z} /* */ */;", ("id",), None),
        ("select '{1,2}'::int[], \"{x}\" from t", (), None),
        ("values ({id})", ("id",), f'values ({HOLE}."id")'),
    ],
)
def test_placeholders(text: str, columns: tuple[str, ...], bound: str | None) -> None:
    query = Query.parse(text)
    assert query.columns == columns
    if bound is not None:
        assert query.bound() == bound


def test_strings_that_hold_braces_stay_as_they_are() -> None:
    query = Query.parse("select '{1,2}', e'\\'{', $a${y}$$ $a$, n'x' where {id} -- {z}")
    assert query.bound() == f"select '{{1,2}}', e'\\'{{', $a${{y}}$$ $a$, n'x' where {HOLE}.\"id\""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("select user_id from m", {"user_id"}),
        ('select m.user_id, M.Other, "Mixed" from m', {"user_id", "other", "Mixed"}),
        ("select distinct user_id from m", {"user_id"}),
        ("select distinct on (a, b) user_id from m", {"user_id"}),
        ('select count(*) as n, (select a from b) as "Sub" from m', {"n", "Sub"}),
        ("select {id}, {id} + 1 as more from m", {"id", "more"}),
        ("select a is distinct from b as changed, c from m", {"changed", "c"}),
        ("select extract(day from a) as day from m", {"day"}),
        ("with x as (select a from b) select c from x union select d from e", {"c"}),
        ("select a as b where true", {"b"}),
        ("select * from m", None),
        ("select m.* from m", None),
        ("select lower(a) from m", None),
        ("select a::text from m", None),
        ("(select a from m)", None),
        ("values (1)", None),
        ("table m", None),
        ("select from m", None),
    ],
)
def test_outputs(text: str, names: set[str] | None) -> None:
    assert outputs(Query.parse(text)) == names


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("select a from members where b = {id}", ["public.members"]),
        (
            "select a from app.members m, only (other) o, third",
            ["app.members", "public.other", "public.third"],
        ),
        (
            "select a from m join n on true left join lateral (select 1 from o) x on true",
            ["public.m", "public.n", "public.o"],
        ),
        ('select a from "My Schema"."T""x" as t (a, b), u', ["public.u", '"My Schema"."T""x"']),
        ("select a from ((m cross join n) join o using (id))", ["public.m", "public.n", "public.o"]),
        ("select a from Members MEMBERS where x in (select y from db.s.t)", ["public.members", "s.t"]),
        (
            "with x as (select 1 from a), y (b, c) as materialized (select 2 from x) select 3 from y, z",
            ["public.a", "public.z"],
        ),
        (
            "with recursive r as (select 1 from a union all select 2 from r join b on true) table r",
            ["public.a", "public.b"],
        ),
        ("select extract(day from d), trim(both from e), substring(f from 2) from t", ["public.t"]),
        (
            "select a is distinct from b, (select c from u) from t where d = any(select e from v)",
            ["public.t", "public.u", "public.v"],
        ),
        ("select extract(day from (select max(d) from u)) from t", ["public.t", "public.u"]),
        ("select a from t tablesample system (5) where b order by c, d limit 5", ["public.t"]),
        ("select a from t group by b, c union select d from u order by e, f", ["public.t", "public.u"]),
        ("table t", ["public.t"]),
        ("select 1 from t, unnest(array[1]) u, jsonb_array_elements(t.x)", ["public.t"]),
        ("select 'from x', \"from\" from t -- from y", ["public.t"]),
        ("select {id} as user_id", []),
    ],
)
def test_reads(text: str, tables: list[str]) -> None:
    found = tables_of(Query.parse(text))
    assert {str(table) for table in found.tables} == set(tables)
    assert not found.doubts


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("select 1 from app.members_of({id}) m", "the function app.members_of may read"),
        ("select 1 from t, rows from (f(1))", "the function f may read"),
        ("select 1 from 'x'", "cannot parse"),
    ],
)
def test_what_the_text_cannot_tell_is_a_doubt(text: str, doubt: str) -> None:
    assert doubt in " ".join(tables_of(Query.parse(text)).doubts)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="select from{id}'\"$/*-;().,x1\n", max_size=40))
def test_any_text_is_a_query_or_a_clear_mistake(text: str) -> None:
    try:
        query = Query.parse("select " + text)
    except NameMistake:
        return
    assert Query.parse(query.normal).normal == query.normal
    tables_of(query)
    outputs(query)

"""``unstale explain`` plans a change exactly as the worker does."""

import asyncio
import random
import time

import pytest

from unstale.errors import ConfigurationError
from unstale_worker.cli.tracing_output import _explanation
from unstale_worker.leader.planning import plan_page
from unstale_worker.rules import Rules
from unstale_worker.sources import OutboxEntry, Page, WatchVersion
from unstale_worker.tracing.explain import explain, read_row

RULES = Rules.parse(
    """
    [[watch]]
    table = "profiles"
    keys = ["user:{id}:profile", "org:{org}:user:{id}"]

    [[watch]]
    table = "profiles"
    columns = ["name"]
    keys = ["name:{name}", "names"]

    [[watch]]
    table = "profiles"
    keys = ["user:{id}:secret", "flag:{flag}:users"]
    purge = true

    [[watch]]
    table = "notes"
    columns = ["text"]
    keys = ["user:{owner}:notes", "user:{owner}:secret"]

    [refresh."user:{id}:secret"]
    loader = "row"
    table = "public.profiles"
    key = {id = "id"}
    serve_stale = "10s"

    [refresh."user:{id}:profile"]
    loader = "row"
    table = "public.profiles"
    key = {id = "id"}
    serve_stale = "30s"

    [ttl]
    "user:*:profile" = "1h"
    """
)
COLUMNS = RULES.tables["public", "profiles"].keys


class Versions:
    async def watch_version(self, watch: int, version: int) -> WatchVersion:
        return WatchVersion("public", "profiles", COLUMNS)


def page(*rows: dict[str, object]) -> Page:
    """A page with the entry that a capture writes: values as Python's str() gives them."""
    flat = [None if row[name] is None else str(row[name]) for row in rows for name in COLUMNS]
    return Page("", "1:1:", "1:1:", False, None, "", "", True, 1, [OutboxEntry(7, 1, flat)], time.monotonic())


def value(draw: random.Random) -> object:
    texts = ["", "ann", "a:b", "*?[x]", "é" * 300, "x" * 513, "line\n", "\U0001f600", '"{id}"']
    values: list[object] = [draw.randint(-(2**63), 2**63), draw.choice(texts), draw.random() < 0.5]
    return None if draw.random() < 0.15 else draw.choice(values)


async def test_ten_thousand_random_rows_remove_what_the_worker_plans() -> None:
    draw = random.Random(11)

    async def compare() -> None:
        rows = [{name: value(draw) for name in COLUMNS} for _ in range(draw.choice([1, 2]))]
        planned = await plan_page(page(*rows), RULES, Versions())
        old = rows[0] if len(rows) == 2 else None
        found = await explain(RULES, "public.profiles", rows[-1], old=old, source=None)
        if old is not None and old == rows[-1]:
            return
        assert found.keys == set(planned.keys)
        assert {pattern for rule in found.rules for pattern in rule.patterns} == planned.patterns
        renewals = RULES.renewals(planned.keys, planned.purged)
        for rule in found.rules:
            for effect in rule.keys:
                renewal = renewals.get(effect.key)
                refreshed = renewal is not None and renewal.serve_ms >= 0
                assert (effect.refresh_line is not None) == refreshed
                assert effect.serve_stale == (renewal.serve_ms / 1000 if renewal and refreshed else 0)

    for _ in range(10):
        await asyncio.gather(*(compare() for _ in range(1_000)))


async def test_an_update_that_the_column_filter_leaves_out_removes_nothing() -> None:
    old = {"owner": 1, "text": "a"}
    ignored = await explain(RULES, "notes", {"owner": 1, "text": "a"}, old=old, source=None)
    assert not ignored.rules
    assert ignored.ignored == "none of the columns that the rules count has changed: owner, text"
    moved = await explain(RULES, "notes", {"owner": 2, "text": "a"}, old=old, source=None)
    assert moved.keys == {"user:1:notes", "user:2:notes", "user:1:secret", "user:2:secret"}
    # Without the compared column in both rows it is reported, as captures compare what the user left out.
    assert (await explain(RULES, "notes", {"owner": 1}, old={"owner": 1}, source=None)).rules


async def test_a_row_that_lacks_columns_shows_the_keys_that_it_can_fill() -> None:
    found = await explain(RULES, "profiles", {"id": 1, "nane": "ann", "other": 2}, source=None)
    assert found.keys == {"user:1:profile", "user:1:secret", "names"}
    lines = list(_explanation(found))
    assert "  unknown  org:{org}:user:{id}  needs org, which the row lacks" in lines
    assert "  unknown  name:{name}  needs name, which the row lacks" in lines
    assert lines[-1] == "no rule needs the column 'nane'; did you mean 'name'?"
    assert not any(rule.patterns for rule in found.rules)


async def test_a_query_whose_columns_are_missing_is_not_asked() -> None:
    rules = Rules.parse(
        """
        [[watch]]
        table = "profiles"
        keys = ["user:{id}"]
        [[watch]]
        table = "profiles"
        keys = ["member:{user_id}"]
        query = "select user_id from public.members where org_id = {org_id}"
        """
    )
    found = await explain(rules, "profiles", {"id": 1}, source=None)
    assert found.keys == {"user:1"}
    assert list(_explanation(found))[-1] == "  unknown  member:{user_id}  needs org_id, which the row lacks"


async def test_a_key_says_its_ttl_and_its_refresh() -> None:
    row = {"id": 1, "org": None, "name": "n", "flag": None}
    found = await explain(RULES, "profiles", row, source=None)
    first, names, purge = found.rules
    assert [(effect.key, effect.ttl, effect.refresh_line) for effect in first.keys] == [
        ("user:1:profile", 3600.0, 27)
    ]
    assert (first.line, names.line, purge.line) == (2, 6, 11)
    (secret,) = purge.keys
    assert (secret.key, secret.refresh_line, secret.serve_stale) == ("user:1:secret", None, 0.0)


async def test_a_key_says_its_budgets_and_how_old_an_answer_may_be() -> None:
    rules = Rules.parse(
        """
        [[watch]]
        table = "profiles"
        keys = ["user:{id}:greeting", "user:{id}:advice"]
        [refresh."user:{id}:greeting"]
        loader = "a:b"
        serve_stale = "1m"
        soft_timeout = "300ms"
        stale_if_error = "1h"
        budget = { id = "50/d", total = "5000/d" }
        [reads."user:{id}:advice"]
        stale_if_error = "2h"
        """
    )
    found = await explain(rules, "profiles", {"id": 7}, source=None)
    greeting, advice = found.rules[0].keys
    assert (greeting.budgets, greeting.over_budget) == (("50/d for each id", "5000/d"), "serve_stale")
    assert (greeting.stale_if_error, greeting.soft_timeout) == (3600.0, 0.3)
    assert (advice.budgets, advice.over_budget, advice.stale_if_error) == ((), None, 7200.0)
    lines = list(_explanation(found))
    assert lines[1].endswith(
        "stale for at most 60 s, budget 50/d for each id and 5000/d, then serve_stale; the last value for "
        "3600 s if its loader fails, after 0.3 s of a load, too"
    )
    assert lines[2].endswith("default TTL; the last value for 7200 s if its loader fails")


@pytest.mark.parametrize(
    ("table", "row", "problem"),
    [
        ("profile", "{}", "did you mean public.profiles?"),
        ("profiles", '{"idd": 1}', "none of the columns that the rules of public.profiles need: flag, id"),
        ("profiles", '{"flagg": 1}', "'flagg': did you mean 'flag'?"),
        ("profiles", '{"id": 1.5, "org": 1, "name": "n", "flag": 1}', "the column 'id' is 1.5"),
        ("profiles", "[1]", "is not a JSON object"),
        ("a b", "{}", "not a table name"),
    ],
)
async def test_a_mistake_says_what_is_wrong(table: str, row: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await explain(RULES, table, read_row(row), source=None)
    assert problem in str(caught.value)

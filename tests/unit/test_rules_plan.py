"""From outbox entries to a plan: keys, patterns and pending queries."""

import pytest

from unstale_worker.rules import Plan, Rules

RULES = Rules.parse(
    """
    [[watch]]
    table = "profiles"
    keys = ["user:{id}:profile", "org:{org}:user:{id}"]

    [[watch]]
    table = "profiles"
    columns = ["name"]
    keys = ["names"]

    [[watch]]
    table = 'app."Organizations"'
    keys = ["user:{user_id}:settings", "slug:{slug}"]
    query = "select user_id from members where org_id = {id}"
    """
)
ORGANIZATIONS = ("app", "Organizations")


def plan(schema: str, table: str, columns: list[str], flat: list[str | None] | None) -> Plan:
    made = Plan()
    RULES.plan(schema, table, columns, flat, made)
    return made


def test_every_row_makes_the_keys_of_every_template() -> None:
    made = plan("public", "profiles", ["id", "org"], ["1", "9", "2", None, "1", "9"])
    assert list(made.keys) == ["user:1:profile", "user:2:profile", "org:9:user:1", "names"]
    assert not made.patterns
    assert not made.queries


def test_the_columns_order_is_the_entrys() -> None:
    made = plan("public", "profiles", ["org", "other", "id"], ["9", "x", "1", "8", "x", "2"])
    assert list(made.keys)[2:4] == ["org:9:user:1", "org:8:user:2"]


def test_the_whole_table_is_its_patterns() -> None:
    assert plan("public", "profiles", ["id", "org"], None).patterns == {
        "user:*:profile",
        "org:*:user:*",
        "names",
    }
    assert plan(*ORGANIZATIONS, ["id"], None).patterns == {"user:*:settings", "slug:*"}


def test_a_column_that_the_entry_lacks_costs_only_its_templates_pattern() -> None:
    made = plan("public", "profiles", ["id"], ["1"])
    assert list(made.keys) == ["user:1:profile", "names"]
    assert made.patterns == {"org:*:user:*"}


@pytest.mark.parametrize(
    ("columns", "flat"),
    [([], []), (["id", "org"], ["1", "2", "3"]), ([], ["1"])],
    ids=["none", "odd", "some"],
)
def test_an_entry_that_makes_no_sense_is_the_whole_table(columns: list[str], flat: list[str | None]) -> None:
    assert len(plan("public", "profiles", columns, flat).patterns) == 3


def test_no_rows_ask_for_nothing() -> None:
    assert not plan("public", "profiles", ["id", "org"], [])


def test_a_table_without_rules_asks_for_nothing() -> None:
    assert not plan("public", "organizations", ["id"], ["1"])
    assert not plan("public", "other", ["id"], None)


def test_a_query_gets_each_distinct_row_once() -> None:
    watch = RULES.watches[2]
    assert watch.row_columns == ("id", "slug")
    made = plan(*ORGANIZATIONS, ["slug", "id"], ["a", "1", "a", "1", None, "2"])
    assert made.queries == {watch: {("1", "a"): 0, ("2", None): 0}}
    assert not made.keys
    RULES.plan(*ORGANIZATIONS, ["slug", "id"], ["a", "1", "c", "3"], made)
    assert made.queries == {watch: {("1", "a"): 0, ("2", None): 0, ("3", "c"): 0}}


def test_a_query_whose_column_is_gone_or_whose_value_is_huge_costs_its_patterns() -> None:
    assert plan(*ORGANIZATIONS, ["id"], ["1"]).patterns == {"user:*:settings", "slug:*"}
    made = plan(*ORGANIZATIONS, ["id", "slug"], ["1", "x" * 513, "2", "a\nb"])
    assert made.patterns == {"user:*:settings", "slug:*"}
    assert made.queries == {RULES.watches[2]: {("2", "a\nb"): 0}}  # bound, so any character will do


def test_rules_are_one_line_to_look_at() -> None:
    assert repr(RULES) == f"<Rules unstale.toml watches=3 tables=2 hash={RULES.hash[:8]}>"

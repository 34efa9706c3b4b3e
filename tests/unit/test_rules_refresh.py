"""``[refresh."..."]`` tables: their meaning, the keys they match, and the errors for mistakes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.errors import RuleError, RuleErrors
from unstale.protocol.globs import matches
from unstale.protocol.messages import PublishedRules
from unstale_worker.rules import (
    Plan,
    PythonLoader,
    Rate,
    RefreshSpec,
    Renewal,
    RowLoader,
    Rules,
    SqlLoader,
    TableName,
    Template,
)
from unstale_worker.rules.budget import Budget
from unstale_worker.rules.refresh import inseparable, overlap

FULL = """
[[watch]]
table = "public.profiles"
keys  = ["user:{id}:profile", "user:{id}:greeting", "org:{org}:user:{id}"]

[refresh."user:{user_id}:profile"]
loader  = "row"
table   = "public.profiles"
key     = "id"
columns = ["id", "name"]

[refresh."org:{org}:user:{user}"]
loader  = "sql"
query   = "select name from public.profiles where id = {user}::int and org = {org}"
debounce = "250ms"
only_if_cached = false
concurrency = 2
rate = "600/m"
timeout = "5s"

[refresh."user:{user_id}:greeting"]
loader = "app.greetings:Writer.greet"
serve_stale = "1m"
ttl = "1h"
"""
WATCHES = FULL.partition("\n[refresh")[0]


def mistakes(text: str) -> list[RuleError]:
    with pytest.raises(RuleErrors) as caught:
        Rules.parse(text, file="my.toml")
    return list(caught.value.errors)


def test_every_field() -> None:
    row, sql, greeting = Rules.parse(FULL).refreshes
    assert row.loader == RowLoader(TableName("public", "profiles"), (("id", "user_id"),), ("id", "name"))
    assert (row.debounce, row.only_if_cached, row.serve_stale, row.ttl) == (0.0, True, 0.0, None)
    assert (row.timeout, row.concurrency, row.rate, row.line) == (30.0, 8, None, 6)
    assert isinstance(sql.loader, SqlLoader)
    assert (sql.loader.query.columns, sql.loader.reads) == (("org", "user"), None)
    assert (sql.debounce, sql.only_if_cached, sql.concurrency, sql.timeout) == (0.25, False, 2, 5.0)
    assert sql.rate == Rate(600, 60.0)
    assert greeting.loader == PythonLoader("app.greetings", "Writer.greet")
    assert (greeting.serve_stale, greeting.ttl, greeting.pattern) == (60.0, 3600.0, "user:*:greeting")


def test_a_key_has_its_refresh_and_fields() -> None:
    rules = Rules.parse(FULL)
    spec = rules.refresh_of("org:7:user:a b")
    assert spec is rules.refreshes[1]
    assert spec.fields("org:7:user:a b") == {"org": "7", "user": "a b"}
    assert rules.refresh_of("user:42:greeting") is rules.refreshes[2]
    for other in ("user:42", "user::greeting", "user:4:2:greeting", "user:42:greeting:x", "user:42:settings"):
        assert rules.refresh_of(other) is None
    with pytest.raises(ValueError, match="does not match"):
        spec.fields("user:42:greeting")


def test_a_field_that_stands_twice_is_the_same() -> None:
    watch = '[[watch]]\ntable = "t"\nkeys = ["a:{x}:b:{y}"]\n'
    rules = Rules.parse(watch + '[refresh."a:{n}:b:{n}"]\nloader = "m:f"\n')
    assert rules.refreshes[0].fields("a:1:b:1") == {"n": "1"}
    assert rules.refresh_of("a:1:b:2") is None


def test_the_first_that_matches_counts() -> None:
    both = '[refresh."user:1:profile"]\nloader = "m:one"\n[refresh."user:{id}:profile"]\nloader = "m:any"\n'
    rules = Rules.parse(WATCHES + both)
    first, second = rules.refresh_of("user:1:profile"), rules.refresh_of("user:2:profile")
    assert first is not None
    assert second is not None
    assert (str(first.loader), str(second.loader)) == ("m:one", "m:any")


def test_agents_hear_the_patterns_and_how_long_a_stale_value_serves() -> None:
    published = PublishedRules.decode(Rules.parse(FULL).published())
    assert published.refresh == (("user:*:profile", 0.0), ("org:*:user:*", 0.0), ("user:*:greeting", 60.0))
    assert published.refresh_of("user:42:greeting") == 60.0
    assert published.refresh_of("user:42:profile") == 0.0
    assert published.refresh_of("user:42:settings") is None
    # Its glob matches deeper keys, too: what they may do is not forgotten over it.
    assert (
        PublishedRules(refresh=(("user:*", 0.0), ("user:*:greeting", 60.0))).refresh_of("user:1:greeting")
        == 60
    )


def test_without_refreshes_hash_and_published_rules_are_what_they_were() -> None:
    # A hash that changed with a release would drop every cached value of everybody.
    plain = Rules.parse(WATCHES)
    assert plain.hash == "1229fe5dd99d3c85bf22bee904ef81f5"
    assert b"refresh" not in plain.published()
    assert plain.refresh_of("user:42:profile") is None


def test_what_changes_values_changes_the_hash() -> None:
    base = Rules.parse(FULL).hash
    for old, new in (
        ('"1m"', '"2m"'),
        ("app.greetings", "app.salute"),
        ('"id", "name"', '"id"'),
        ("1h", "2h"),
    ):
        assert Rules.parse(FULL.replace(old, new)).hash != base, new
    for old, new in (("250ms", "1s"), ("600/m", "10/s"), ("concurrency = 2", "concurrency = 3")):
        assert Rules.parse(FULL.replace(old, new)).hash == base, new


def test_budgets() -> None:
    def budgets(more: str) -> tuple[tuple[Budget, ...], str]:
        spec = Rules.parse(FULL.replace('ttl = "1h"', more)).refreshes[2]
        return spec.budgets, spec.over_budget

    assert budgets("") == ((), "serve_stale")
    assert budgets('budget = "5000/d"') == ((Budget(5000, "d"),), "serve_stale")
    assert budgets('budget = "10/m"\nover_budget = "load_on_read"')[1] == "load_on_read"
    both = (Budget(50, "d", "user_id"), Budget(200, "h"))
    assert budgets('budget = { user_id = "50/d", total = "200/h" }')[0] == both
    assert [(str(each), each.seconds) for each in both] == [
        ("50/d for each user_id", 86_400),
        ("200/h", 3_600),
    ]
    without = Rules.parse(FULL.replace('serve_stale = "1m"', 'budget = "1/d"')).refreshes[2]
    assert without.over_budget == "load_on_read"
    # Other limits of calls make no value wrong.
    assert (
        Rules.parse(FULL.replace('ttl = "1h"', 'ttl = "1h"\nbudget = "1/d"')).hash == Rules.parse(FULL).hash
    )


def test_a_purge_is_noted_with_its_keys() -> None:
    text = WATCHES + '[[watch]]\ntable = "erased"\nkeys = ["user:{id}:profile"]\npurge = true\n'
    rules, plan = Rules.parse(text), Plan()
    rules.plan("public", "profiles", ["id", "org"], ["1", "7"], plan)
    assert list(plan.purged) == []
    rules.plan("public", "erased", ["id"], ["1", "2"], plan)
    assert list(plan.purged) == ["user:1:profile", "user:2:profile"]
    assert set(plan.keys) >= {"user:1:profile", "user:1:greeting", "user:2:profile"}


@pytest.mark.parametrize(
    ("name", "body", "line", "field", "said"),
    [
        ("user:{id}:profile", "", 6, "", "loader is missing"),
        ("user:{id}:profile", "loader = 'rows'", 7, ".loader", '"package.module:function"'),
        (
            "user:{id}:profile",
            "loader = 'a:b'\nserve_stal = 1",
            8,
            ".serve_stal",
            "Did you mean serve_stale?",
        ),
        ("user:{id}:profile", "loader = 'a:b'\nserve_stale = '1 m'", 8, ".serve_stale", "not a duration"),
        ("user:{id}:profile", "loader = 'a:b'\ntimeout = 0", 8, ".timeout", "not a duration"),
        ("user:{id}:profile", "loader = 'a:b'\ntimeout = '2h'", 8, ".timeout", "more than an hour"),
        ("user:{id}:profile", "loader = 'a:b'\nconcurrency = 0", 8, ".concurrency", "from 1 to 10000"),
        ("user:{id}:profile", "loader = 'a:b'\nconcurrency = true", 8, ".concurrency", "from 1 to 10000"),
        ("user:{id}:profile", "loader = 'a:b'\nrate = '10'", 8, ".rate", '"600/m"'),
        ("user:{id}:profile", "loader = 'a:b'\nonly_if_cached = 1", 8, ".only_if_cached", "true or false"),
        ("user:{id}:profile", "loader = 'a:b'\ntable = 't'", 8, ".table", "only the loader 'row' has"),
        ("user:{id}:profile", "loader = 'a:b'\nquery = 'x'", 8, ".query", "only the loader 'sql' has"),
        ("user:{id}:profile", "loader = 'row'\nkey = 'id'", 6, "", "table is missing"),
        ("user:{id}:profile", "loader = 'row'\ntable = 't'", 6, "", "key is missing"),
        ("user:{id}:profile", "loader = 'row'\ntable = 't'\nkey = 7", 9, ".key", 'key = { id = "id" }'),
        (
            "user:{id}:profile",
            "loader = 'row'\ntable = 't'\nkey = {a = 'x'}",
            9,
            ".key.a",
            "Placeholders of the key: id.",
        ),
        (
            "org:{a}:user:{b}",
            "loader = 'row'\ntable = 't'\nkey = 'id'",
            9,
            ".key",
            'key = { a = "a", b = "b" }',
        ),
        ("org:{a}:user:{b}", "loader = 'row'\ntable = 't'\nkey = {x = 'a'}", 9, ".key", "no column for b"),
        ("user:{id}:profile", "loader = 'sql'", 6, "", "query is missing"),
        ("user:{id}:profile", "loader = 'sql'\nquery = 'select {x}'", 8, ".query", "names x, which"),
        ("user:{id}:profile", "loader = 'sql'\nquery = 'delete'", 8, ".query", "not a select"),
        ("user:{id}:profile", "loader = 'a:b'\nbudget = 'many'", 8, ".budget", '"5000/d"'),
        ("user:{id}:profile", "loader = 'a:b'\nbudget = '5/s'", 8, ".budget", "not a budget"),
        ("user:{id}:profile", "loader = 'a:b'\nbudget = 5", 8, ".budget", "must be a string"),
        ("user:{id}:profile", "loader = 'a:b'\nbudget = {}", 8, ".budget", "is empty"),
        ("user:{id}:profile", "loader = 'a:b'\nbudget = {x = '5/d'}", 8, ".budget.x", "Known: id, total."),
        ("user:{id}:profile", "loader = 'a:b'\nbudget = {id = '0/d'}", 8, ".budget.id", "not a budget"),
        (
            "user:{id}:profile",
            "loader = 'sql'\nquery = 'select 1'\nbudget = '5/d'",
            9,
            ".budget",
            "only a Python loader has a budget",
        ),
        (
            "user:{id}:profile",
            "loader = 'a:b'\nover_budget = 'load_on_read'",
            8,
            ".over_budget",
            "there is no budget",
        ),
        (
            "user:{id}:profile",
            "loader = 'a:b'\nbudget = '5/d'\nover_budget = 'wait'",
            9,
            ".over_budget",
            'Write "serve_stale" or "load_on_read".',
        ),
        (
            "user:{id}:profile",
            "loader = 'a:b'\nbudget = '5/d'\nover_budget = 'serve_stale'",
            9,
            ".over_budget",
            "no old value is kept",
        ),
        ("user:*:profile", "loader = 'a:b'", 6, "", "Name the segments"),
        ("user:{a}{b}:profile", "loader = 'a:b'", 6, "", "where {a} ends and {b} begins"),
        ("user:{a}-{b}:profile", "loader = 'a:b'", 6, "", "Put ':' between them"),
        ("user:{id}:settings", "loader = 'a:b'", 6, "", "no [[watch]] invalidates such a key"),
        ("user:{id}", "loader = 'a:b'", 6, "", "no [[watch]] invalidates such a key"),
        ("user:{ id }:profile", "loader = 'a:b'", 6, "", "Write {id}."),
    ],
)
def test_a_mistake_names_file_line_field_and_what_was_expected(
    name: str, body: str, line: int, field: str, said: str
) -> None:
    (error,) = mistakes(f'{WATCHES}\n[refresh."{name}"]\n{body}\n')
    assert (error.file, error.line, error.field) == ("my.toml", line, f'refresh."{name}"{field}')
    assert said in str(error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("refresh = 1\n" + WATCHES, "must be tables named by a pattern"),
        (WATCHES + "[refresh]\nuser = 'x'\n", "must be a table named by a pattern"),
        (FULL + '[refresh."user:{x}:profile"]\nloader = "m:f"\n', "the same keys as on line 6"),
        (WATCHES + "[[watch]]\ntable = 't'\nkeys = ['a:{b}']\npurge = 'yes'\n", "Write purge = true"),
    ],
)
def test_other_mistakes(text: str, said: str) -> None:
    (error,) = mistakes(text)
    assert said in str(error)


PARTS = st.lists(st.sampled_from(["a", "b", ":", "{x}", "a:"]), min_size=1, max_size=6).map("".join)
WORDS = st.text("ab:", max_size=7)


@settings(max_examples=400, deadline=None)
@given(PARTS, PARTS, st.lists(WORDS, max_size=30))
def test_no_refresh_of_watched_keys_is_called_a_mistake(one: str, other: str, keys: list[str]) -> None:
    """A key that both templates produce proves the overlap; otherwise the file is refused wrongly."""
    if not one.replace("{x}", "") or not other.replace("{x}", ""):
        return
    refresh, watched = Template.parse(one.replace("{x}{x}", "{x}")), Template.parse(other)
    spec = RefreshSpec(refresh, PythonLoader("m", "f"))
    if any(spec.matches(key) and matches(watched.pattern, key) for key in keys):
        assert overlap(refresh, watched)


def test_patterns_that_share_no_key_do_not_overlap() -> None:
    parse = Template.parse
    assert not overlap(parse("user:{a}"), parse("user:{b}:x"))
    assert not overlap(parse("user:1"), parse("user:2"))
    assert overlap(parse("user:{a}:x"), parse("{b}:7:x"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('loadr = "row"\ntable = "public.profiles"\nkey = "id"', "loader"),
        ('loader = "row"\ntabel = "public.profiles"\nkey = "id"', "table"),
        ('loader = "row"\ntable = "public.profiles"\nkeyy = "id"', "key"),
        ('loader = "sql"\nqery = "select name from public.profiles where id = {user_id}::int"', "query"),
    ],
)
def test_a_misspelt_field_is_one_mistake(written: str, meant: str) -> None:
    """The field is reported as unknown, but not also as missing."""
    (mistake,) = mistakes(f'{WATCHES}\n[refresh."user:{{user_id}}:profile"]\n{written}\n')
    assert mistake.problem == "unknown field"
    assert mistake.remedy == f"Did you mean {meant}?"


def test_a_field_that_is_missing_beside_an_unknown_one_is_another_mistake() -> None:
    unknown, missing = mistakes(f'{WATCHES}\n[refresh."user:{{user_id}}:profile"]\ntimeuot = "1s"\n')
    assert {unknown.problem, missing.problem} == {"unknown field", "loader is missing"}


@pytest.mark.parametrize(
    "ambiguous",
    [
        "chat:{a}-{b}",
        "chat:{a}.{b}:x",
        "{a}--{b}:chat",
        "chat:{a}{a}{b}",
        "x:{c}:{a}-{b}-{c}",
        "x:{a}/{b}/{a}",
    ],
)
def test_a_key_that_can_be_read_in_two_ways_is_refused(ambiguous: str) -> None:
    """Otherwise ('u', 'v-w') and ('u-v', 'w') have one key, and one of them is loaded for the other."""
    watch = '[[watch]]\ntable = "t"\nkeys = ["x:{k}", "chat:{k}", "{k}:chat"]\n'
    (mistake,) = mistakes(f'{watch}[refresh."{ambiguous}"]\nloader = "m:f"\n')
    assert mistake.line == 4
    assert "Put ':' between them" in str(mistake)


PIECES = st.lists(st.sampled_from(["a", "-", ":", "--", "{x}", "{y}", "{z}"]), min_size=1, max_size=8).map(
    "".join
)
VALUES = st.fixed_dictionaries({name: st.text("a-", min_size=1, max_size=4) for name in "xyz"})


@settings(max_examples=600, deadline=None)
@given(PIECES, VALUES)
def test_the_fields_of_a_key_are_the_values_that_made_it(text: str, values: dict[str, str]) -> None:
    """Holds for every template that is accepted, whatever stands between its placeholders."""
    if not text.replace("{x}", "").replace("{y}", "").replace("{z}", ""):
        return
    template = Template.parse(text)
    spec = RefreshSpec(template, PythonLoader("m", "f"))
    if inseparable(template) is None:
        assert spec.fields(text.format_map(values)) == {name: values[name] for name in template.columns}


def test_what_is_separable_is_accepted() -> None:
    for text in ("{a}:{b}", "x-{a}:{b}-y", "{a}-{a}", "{a}:{a}-{b}", "{a}-{b}:{b}", "{a}x:{b}x:{c}", "x"):
        assert inseparable(Template.parse(text + ":t")) is None, text


READS = """
[refresh."user:{user_id}:greeting"]
loader = "m:f"
serve_stale = "1m"
stale_if_error = "2h"
soft_timeout = "300ms"

[reads."user:{id}:profile"]
stale_if_error = "1h"
"""


def test_reads_are_published_and_bound_by_the_same_globs() -> None:
    rules = Rules.parse(WATCHES + READS)
    published = PublishedRules.decode(rules.published())
    assert published.reads == (("user:*:greeting", 0.3, 7200.0), ("user:*:profile", 0.0, 3600.0))
    assert published.reads_of("user:1:profile") == (0.0, 3600.0)
    assert published.reads_of("user:1:settings") == (0.0, 0.0)
    keys = ["user:1:greeting", "user:1:profile", "user:1:settings"]
    found = rules.renewals(keys, purged=["user:1:profile"])
    assert found["user:1:greeting"] == Renewal(60_000, 0, True, 7_200_000)
    assert found["user:1:profile"] == Renewal(-1, 0, True, 3_600_000)
    assert rules.renewals(keys)["user:1:profile"] == Renewal(0, 0, True, 3_600_000, refreshed=False)
    assert "user:1:settings" not in found
    assert rules.keeps_older
    # A key of another shape that the agents' glob matches is bounded, too.
    assert rules.renewals(["user:1:2:profile"])["user:1:2:profile"].spare_ms == 3_600_000
    assert Rules.parse(WATCHES + READS.replace("1h", "2h")).hash != rules.hash


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[reads."user:{id}:profile"]\nstale_if_eror = 1', "Did you mean stale_if_error?"),
        ('[reads."user:{id}:profile"]\nsoft_timeout = "soon"', "not a duration"),
        ('[reads."tag:{id}:x"]\nsoft_timeout = "1s"', "no [[watch]] invalidates such a key"),
        ('[reads."user:{u}:greeting"]\nsoft_timeout = "1s"', "the same keys as on line 6"),
        ("[reads]\nx = 1", "must be a table named by a pattern"),
    ],
)
def test_mistakes_in_reads(text: str, said: str) -> None:
    refresh = '[refresh."user:{user_id}:greeting"]\nloader = "m:f"\n'
    assert any(said in str(error) for error in mistakes(f"{WATCHES}\n{refresh}{text}"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("loader = 'a:b'\nserve_stale = 1\ninputs = 'select {x}'", "which is not a placeholder of the key"),
        ("loader = 'a:b'\ninputs = 'select 1'", "Add serve_stale or stale_if_error"),
        (
            "loader = 'sql'\nquery = 'select 1'\nserve_stale = 1\ninputs = 'select 1'",
            "only a Python loader has inputs",
        ),
        ("loader = 'a:b'\nserve_stale = 1\ninputs = 'delete from t'", "not a select statement"),
    ],
)
def test_mistakes_in_inputs(body: str, said: str) -> None:
    text = f'{WATCHES}\n[refresh."user:{{id}}:profile"]\n{body}\n'
    assert any(said in str(error) for error in mistakes(text))


def test_inputs_are_read_with_bound_fields_and_change_no_hash() -> None:
    text = WATCHES + READS + 'inputs = "select 1 where id = {user_id}"\n'
    text = text.replace('\n[reads."user:{id}:profile"]\nstale_if_error = "1h"', "")
    (spec,) = Rules.parse(text).refreshes
    assert spec.inputs is not None
    assert spec.inputs.columns == ("user_id",)
    assert Rules.parse(text).hash == Rules.parse(text.replace("inputs", "# inputs")).hash

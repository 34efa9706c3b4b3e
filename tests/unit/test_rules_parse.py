"""A rules file: its meaning, and the errors for its mistakes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.errors import RuleError, RuleErrors
from unstale.protocol.messages import PublishedRules
from unstale_worker.rules import Plan, Rules
from unstale_worker.rules.toml_lines import Document

DESIGN = """
[[watch]]
table = "public.profiles"
keys  = ["user:{id}:profile", "user:{id}:greeting_instructions"]

[[watch]]
table   = "public.memories"
columns = ["content", "importance"]                 # optional: only when one of these changes
keys    = ["user:{user_id}:greeting_instructions"]

[[watch]]
table = "public.organizations"
keys  = ["user:{user_id}:settings"]                 # fan-out: one changed row, many keys
query = "select user_id from public.members where org_id = {id}"

[ttl]                                               # a safety net, not the mechanism
"user:*:profile" = "1h"
"user:*:greeting_instructions" = "2m"
"user:*:settings" = 1800
"""
WATCH = '[[watch]]\ntable = "t"\nkeys = ["a:{id}"]\n'


def mistakes(text: str) -> list[RuleError]:
    with pytest.raises(RuleErrors) as caught:
        Rules.parse(text, file="my.toml")
    return list(caught.value.errors)


def test_the_designs_example() -> None:
    rules = Rules.parse(DESIGN)
    assert [(str(w.table), w.line) for w in rules.watches] == [
        ("public.profiles", 2),
        ("public.memories", 6),
        ("public.organizations", 11),
    ]
    assert {name: (needs.keys, needs.columns) for name, needs in rules.tables.items()} == {
        ("public", "memories"): (("user_id",), ("content", "importance")),
        ("public", "organizations"): (("id",), None),
        ("public", "profiles"): (("id",), None),
    }
    assert rules.patterns == ("user:*:greeting_instructions", "user:*:profile", "user:*:settings")
    assert rules.ttl == (
        ("user:*:profile", 3600.0),
        ("user:*:greeting_instructions", 120.0),
        ("user:*:settings", 1800.0),
    )
    published = PublishedRules.decode(rules.published())
    assert (published.hash, published.patterns, published.ttl) == (rules.hash, rules.patterns, rules.ttl)
    assert published.owns("user:42:profile")


def test_rules_of_one_table_together() -> None:
    both = '[[watch]]\ntable = "t"\nkeys = ["b:{b}"]\ncolumns = ["x"]\n'
    rules = Rules.parse(both + '[[watch]]\ntable = "public.t"\nkeys = ["a:{a}"]\ncolumns = ["y", "x"]\n')
    assert rules.tables["public", "t"].keys == ("a", "b")
    assert rules.tables["public", "t"].columns == ("x", "y")
    # One rule that wants every change switches the filter off.
    assert Rules.parse(both + WATCH).tables["public", "t"].columns is None


def test_an_empty_file_has_no_rules() -> None:
    assert Rules.parse("# nothing yet\n").watches == ()


@pytest.mark.parametrize(
    ("text", "line", "field", "said"),
    [
        ("[[wach]]\ntable = 't'", 1, "wach", "Did you mean watch?"),
        ("[other]\nx = 1", 1, "other", "Known fields: watch, ttl, refresh, reads, learn."),
        ("[[watch]]\nkeys = ['a']", 1, "watch[0]", "table is missing"),
        ("\n[[watch]]\ntable = 't'", 2, "watch[0]", "keys is missing"),
        (WATCH + "kesy = 1", 4, "watch[0].kesy", "Did you mean keys?"),
        (WATCH + "colour = 1", 4, "watch[0].colour", "Did you mean columns?"),
        ("[[watch]]\ntable = 7\nkeys = ['a']", 2, "watch[0].table", "must be a string"),
        ("[[watch]]\ntable = 'a.b.c'\nkeys = ['a']", 2, "watch[0].table", "schema.table"),
        ("[[watch]]\ntable = 'my table'\nkeys = ['a']", 2, "watch[0].table", "double quotes"),
        ("[[watch]]\ntable = ''\nkeys = ['a']", 2, "watch[0].table", "schema.table"),
        ("[[watch]]\ntable = 'public.'\nkeys = ['a']", 2, "watch[0].table", "schema.table"),
        (f"[[watch]]\ntable = '{'x' * 64}'\nkeys = ['a']", 2, "watch[0].table", "63 bytes"),
        ("[[watch]]\ntable = 't'\nkeys = 'a'", 3, "watch[0].keys", "must be a list"),
        ("[[watch]]\ntable = 't'\nkeys = []", 3, "watch[0].keys", "not empty"),
        ("[[watch]]\ntable = 't'\nkeys = [\n  'a',\n  7]", 5, "watch[0].keys[1]", "must be a string"),
        ("[[watch]]\ntable = 't'\nkeys = [\n'a', # x\n'a']", 5, "watch[0].keys[1]", "listed twice"),
        ("[[watch]]\ntable = 't'\nkeys = ['a:{x']", 3, "watch[0].keys[0]", "a brace without a placeholder"),
        (WATCH + "columns = ['x', 'y', 'x']", 4, "watch[0].columns[2]", "listed twice"),
        (WATCH + "columns = ['']", 4, "watch[0].columns[0]", "1 to 63 bytes"),
        (WATCH + "reads = ['members']", 4, "watch[0].reads", "needs a query"),
        (WATCH + "query = 'drop table t'", 4, "watch[0].query", "not a select"),
        (WATCH + "query = ''", 4, "watch[0].query", "not a select"),
        (WATCH + "query = 'select 1; select 2'", 4, "watch[0].query", "more than one statement"),
        (WATCH + "query = 'select $1'", 4, "watch[0].query", "the parameter $1 has no value"),
        (WATCH + "query = 'select {a b}'", 4, "watch[0].query", "a brace without a placeholder"),
        (WATCH + "query = \"select '{id}'\"", 4, "watch[0].query", "inside quotes"),
        (WATCH + 'query = "select \'x"', 4, "watch[0].query", "not closed"),
        (WATCH + "query = 'select /* /* */ 1'", 4, "watch[0].query", "not closed"),
        (WATCH + WATCH, 4, "watch[1]", "the same rule as on line 1"),
        ("watch = 1", 1, "watch", "[[watch]] block"),
        ("watch = [\n{table='t', keys=['a']},\n1]", 3, "watch[1]", "[[watch]] block"),
        ("ttl = 5", 1, "ttl", "[ttl]"),
        ("[ttl]\na.b = '1h'", 2, "ttl.a", "double quotes"),
        ('[ttl]\n"" = 5', 2, 'ttl.""', "empty"),
        ('[ttl]\n"a[b" = 5', 2, 'ttl."a[b"', "not closed"),
        ('[ttl]\n"a\\nb" = 5', 2, 'ttl."a\nb"', "control character"),
        (WATCH + '[ttl]\n"a:{id}" = 5', 5, 'ttl."a:{id}"', 'Write it as a pattern: "a:*".'),
        *(
            (f'[ttl]\n"x" = {value}', 2, "ttl.x", "at most ten years")
            for value in ('"1x"', '""', '"h"', "0", "-5", "1.5", "true", '"0s"', "[1]", '"1m1h"', '"3651d"')
        ),
    ],
)
def test_a_mistake_names_file_line_field_and_what_was_expected(
    text: str, line: int, field: str, said: str
) -> None:
    (error,) = mistakes(text)
    assert (error.file, error.line, error.field) == ("my.toml", line, field)
    assert said in str(error)
    assert str(error).startswith(f"my.toml:{line}: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[[watch]]\ntable = ", 2),
        ("[ttl]\nuser:*:profile = '1h'", 2),
        ("[ttl]\nx = 1\nx = 2", 3),
        ("[ttl]\nx = '''\n", 3),
        ("[[watch]]\n[watch]\n", 2),
    ],
)
def test_what_is_not_toml(text: str, line: int) -> None:
    (error,) = mistakes(text)
    assert (error.line, error.problem[:15]) == (line, "not valid TOML:")


def test_all_mistakes_at_once_in_the_order_of_the_lines() -> None:
    text = "[[watch]]\nkeys = ['{', '{ x }']\n[[watch]]\ntable = 1\nqery = ''\n[ttl]\nx = 0\n[y]\n"
    found = mistakes(text)
    assert [error.line for error in found] == [1, 2, 2, 3, 4, 5, 7, 8]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ('"10s"', 10),
        ('"2m"', 120),
        ('"30m"', 1800),
        ('"1h"', 3600),
        ('"1d"', 86400),
        ('"1h30m"', 5400),
        ("7", 7),
    ],
)
def test_durations(value: str, seconds: float) -> None:
    assert Rules.parse(f"[ttl]\nx = {value}").ttl == (("x", seconds),)


SAME = [
    DESIGN.replace("  =", " =").replace("# a safety net, not the mechanism", ""),
    DESIGN.replace("select user_id from public.members", "SELECT  user_id -- who\\n\\tFROM public.members"),
    DESIGN.replace('["content", "importance"]', '["importance", "content"]'),
    "\n".join(
        ["", *DESIGN.split("[[watch]]")[0:1], *(f"[[watch]]{b}" for b in DESIGN.split("[[watch]]")[1:])]
    ),
]
OTHER = [
    DESIGN.replace("{id}:profile", "{id}:profil"),
    DESIGN.replace("org_id = {id}", "org_id <> {id}"),
    DESIGN.replace("1800", "1801"),
    DESIGN.replace('["content", "importance"]', '["content"]'),
    DESIGN.replace("public.profiles", "private.profiles"),
]


@pytest.mark.parametrize("text", SAME)
def test_the_hash_ignores_what_does_not_matter(text: str) -> None:
    assert text != DESIGN
    assert Rules.parse(text).hash == Rules.parse(DESIGN).hash


@pytest.mark.parametrize("text", OTHER)
def test_the_hash_changes_with_what_matters(text: str) -> None:
    assert text != DESIGN
    assert Rules.parse(text).hash != Rules.parse(DESIGN).hash


def test_the_order_of_rules_does_not_matter_but_that_of_ttls_does() -> None:
    second = '[[watch]]\ntable = "u"\nkeys = ["b:{id}"]\n'
    assert Rules.parse(WATCH + second).hash == Rules.parse(second + WATCH).hash
    one, two = '"a*" = 1\n', '"b*" = 1\n'
    assert Rules.parse("[ttl]\n" + one + two).hash != Rules.parse("[ttl]\n" + two + one).hash


# --- finding the file ----------------------------------------------------------------------------


def test_the_file_is_found_upwards(tmp_path: Path) -> None:
    (tmp_path / "unstale.toml").write_text(WATCH)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    rules = Rules.load(root=deep)
    assert (rules.file, len(rules.watches)) == (str(tmp_path / "unstale.toml"), 1)
    assert Rules.load(root=tmp_path).file == "unstale.toml"


def test_pyproject_serves_where_there_is_no_unstale_toml(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n[[tool.unstale.watch]]\ntable = "t"\nkeys = ["a:{id}", "{"]\n')
    with pytest.raises(RuleErrors, match=r"^pyproject.toml:5: watch\[0\].keys\[1\] = '\{'"):
        Rules.load(root=tmp_path)
    project.write_text(
        '[[tool.unstale.watch]]\ntable = "t"\nkeys = ["a:{id}"]\n[tool.unstale.ttl]\n"a:*" = 5\n'
    )
    assert Rules.load(root=tmp_path).ttl == (("a:*", 5.0),)
    assert Rules.load(project).ttl == (("a:*", 5.0),)
    (tmp_path / "unstale.toml").write_text("")
    assert Rules.load(root=tmp_path).watches == ()


NO_WATCH = ["", "# soon\n", "\n\n", "watch = []", '[ttl]\n"user:*" = "1h"\n']


@pytest.mark.parametrize("text", NO_WATCH)
def test_rules_that_watch_nothing_are_refused_by_what_would_follow_them(tmp_path: Path, text: str) -> None:
    file = tmp_path / "unstale.toml"
    file.write_text(text)
    rules = Rules.load(file)  # `unstale migration` reads them: no table is watched any more
    with pytest.raises(RuleError, match=r"unstale\.toml: no \[\[watch\]\].*docs/rules\.md"):
        rules.require_watches()


def test_a_pyproject_without_rules_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "unstale.toml").write_text(WATCH)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert len(Rules.load(root=inner).watches) == 1


def test_no_file_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"^[^:]*: cannot be read \(No such file"):
        Rules.load(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(RuleError, match="not UTF-8 at byte 2"):
        Rules.load(tmp_path / "latin.toml")
    (tmp_path / "folder" / "unstale.toml").mkdir(parents=True)
    with pytest.raises(RuleError, match=r"unstale.toml: cannot be read \(Is a directory\)"):
        Rules.load(root=tmp_path / "folder")


# --- lines ---------------------------------------------------------------------------------------

TEXT = st.text(alphabet="ab \\\"'#[]{}=,.\té", max_size=6)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'


def long_quoted(text: str) -> str:
    return '"""\n' + text.replace("\\", "\\\\").replace('"', '\\"') + '\n"""'


def name_of(key: str) -> str:
    (name,) = Document.parse(f"{key} = 0").data
    return name


KEYS = st.one_of(st.sampled_from(["a", "b-c", "1"]), TEXT.map(quoted))
VALUES = st.recursive(
    st.one_of(
        st.integers(-9, 9).map(str),
        st.sampled_from(["true", "1979-05-27T07:32:00Z", "1.5", "'''it's\n#[x]'''", '"""a""b\n"""""']),
        TEXT.map(quoted),
        TEXT.map(long_quoted),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: "[ # [\n" + ",\n".join(items) + "\n]"),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=5, unique_by=lambda pair: name_of(pair[0])))
def test_lines_of_any_document(pairs: list[tuple[str, str]]) -> None:
    text, expected = "# first\n[[t]]\n[[t]]\n", {}
    for key, value in pairs:
        expected[name_of(key)] = text.count("\n") + 1
        text += f"{key} = {value} # ] = '\n\n"
    document = Document.parse(text)
    assert {name: document.line(("t", 1, name)) for name in expected} == expected
    assert document.line(("t", 0)) == 2
    assert document.line(("t", 1)) == 3


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="[]watchkeystl=\"'{}:#,.\n ab1\\", max_size=60))
def test_any_text_is_rules_or_a_clear_mistake(text: str) -> None:
    found: tuple[RuleError, ...] = ()
    try:
        rules = Rules.parse(text)
    except RuleErrors as errors:
        found = errors.errors
    else:
        rules.plan("public", "t", ["id"], ["1"], Plan())
        return
    assert found
    assert all(error.remedy and 0 <= error.line <= text.count("\n") + 1 for error in found)


def test_the_page_about_rules_says_what_is_so() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    example = page.split("```toml\n")[1].split("```")[0]
    assert len(Rules.parse(example).watches) == 3
    broken = '\n\n\n[[watch]]\ntable = "t"\nkeys = ["user:{ id }"]\n\n[ttl]\n"user:*" = "1x"\n'
    with pytest.raises(RuleErrors) as caught:
        Rules.parse(broken)
    assert f"```\n{caught.value}\n```" in page

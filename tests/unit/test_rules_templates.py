"""Key templates: from column values to keys, for all kinds of values."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.protocol.globs import matches
from unstale_worker.rules import Template
from unstale_worker.rules.identifiers import NameMistake
from unstale_worker.rules.template import MAX_VALUE_BYTES, usable

VALUES = st.one_of(st.none(), st.text(max_size=20), st.text(alphabet="*?[]\\{}:'\"%é😀", max_size=8))
LITERALS = st.text(alphabet="abc:*?[]\\é{}", min_size=0, max_size=6)


def expand(template: Template, *columns: list[str | None]) -> tuple[list[str], set[str]]:
    keys: dict[str, int] = {}
    patterns: set[str] = set()
    causes = [10 + row for row in range(len(columns[0]) if columns else 1)]
    template.expand(columns, keys=keys, patterns=patterns, causes=causes)
    for row, cause in enumerate(causes):  # each key has the last row that makes it
        alone: dict[str, int] = {}
        template.expand([column[row : row + 1] for column in columns], keys=alone, patterns=set(), causes=[0])
        assert all(keys[key] >= cause for key in alone)
        assert not alone or row + 1 < len(causes) or keys[next(iter(alone))] == cause
    return list(keys), patterns


@pytest.mark.parametrize(
    ("text", "columns", "pattern"),
    [
        ("user:{id}:profile", ("id",), "user:*:profile"),
        ("app:config", (), "app:config"),
        ("{tenant}:{id}:x", ("tenant", "id"), "*:*:x"),
        ("u{a}{b}", ("a", "b"), "u*"),
        ("{id}-{id}", ("id", "id"), "*-*"),
        ("a*b?[c]\\{id}", ("id",), r"a\*b\?\[c\]\\*"),
        ("{{tag}}:{id}", ("id",), "{tag}:*"),
        ("{{{id}}}", ("id",), "{*}"),
        ('user:{"First ""x"" Name"}', ('First "x" Name',), "user:*"),
        ("é:{naïve$1}", ("naïve$1",), "é:*"),
    ],
)
def test_parse(text: str, columns: tuple[str, ...], pattern: str) -> None:
    template = Template.parse(text)
    assert (template.columns, template.pattern) == (columns, pattern)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("{id}", "every key of the server"),
        ("{a}{b}", "every key of the server"),
        ("a\nb", "control character"),
        ("user:{ id }", "Write {id}."),
        ("user:{}", "a brace without a placeholder"),
        ("user:{id", "a brace without a placeholder"),
        ("user:id}", "a brace without a placeholder"),
        ("user:{id!r}", 'or {"id!r"} if that is the name of the column'),
        ("user:{id:>5}", "only a column name"),
        ("user:{a.b}", "only a column name"),
        ("user:{0}", "only a column name"),
        ("user:{" + "x" * 64 + "}", "1 to 63 bytes"),
        ("x" * 1025, "too long"),
        ("x{a}" * 17, "too long"),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    with pytest.raises(NameMistake) as caught:
        Template.parse(text)
    assert said in str(caught.value)


def test_a_value_stands_in_the_key_verbatim() -> None:
    template = Template.parse("user:{id}:profile")
    assert expand(template, ["42", "a*b", "x:{y}", ""]) == (
        ["user:42:profile", "user:a*b:profile", "user:x:{y}:profile", "user::profile"],
        set(),
    )


def test_a_null_makes_no_key() -> None:
    assert expand(Template.parse("a:{x}"), [None]) == ([], set())
    assert expand(Template.parse("a:{x}:{y}"), ["1", None], ["2", "3"]) == (["a:1:2"], set())
    assert expand(Template.parse("a:{x}:{y}"), ["\n"], [None]) == ([], set())


@pytest.mark.parametrize(
    "value", ["\0", "a\nb", "\x7f", "\x85", "\x9f", "\ud800", "x" * 513, "é" * 257, "😀" * 129]
)
def test_an_unusable_value_costs_the_pattern_and_spares_the_others(value: str) -> None:
    assert expand(Template.parse("a:{x}"), ["1", value, None]) == (["a:1"], {"a:*"})
    assert expand(Template.parse("a:{x}:{y}"), ["1", value], ["2", "3"]) == (["a:1:2"], {"a:*:*"})


@pytest.mark.parametrize("value", ["x" * 512, "é" * 256, "😀" * 128, "\u2028", "\xa0", "\u200b"])
def test_what_is_not_a_control_character_and_fits_is_usable(value: str) -> None:
    assert usable(value)
    assert expand(Template.parse("a:{x}"), [value]) == ([f"a:{value}"], set())


def test_a_template_without_placeholders_is_one_key() -> None:
    assert expand(Template.parse("app:{{x}}")) == (["app:{x}"], set())


def naive(literals: list[str], row: tuple[str | None, ...]) -> str | Exception | None:
    """Null gives no key; a value that is not allowed in a key gives the pattern; others are verbatim."""
    if any(value is None for value in row):
        return None
    for value in row:
        assert value is not None
        data = value.encode("utf-8", "surrogatepass")
        bad = any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in value)
        if bad or len(data) > MAX_VALUE_BYTES:
            return ValueError()
    return literals[0] + "".join(str(value) + after for value, after in zip(row, literals[1:], strict=True))


@settings(max_examples=50, deadline=None)
@given(literals=st.lists(LITERALS, min_size=2, max_size=4), data=st.data())
def test_any_values(literals: list[str], data: st.DataObject) -> None:
    if not any(literals):
        literals[0] = "x"
    width = len(literals) - 1
    rows = data.draw(st.lists(st.tuples(*[VALUES] * width), max_size=6))
    holes = [f"{{c{n}}}" for n in range(width)] + [""]
    escaped = [part.replace("{", "{{").replace("}", "}}") for part in literals]
    template = Template.parse("".join(part + hole for part, hole in zip(escaped, holes, strict=True)))
    answers = [naive(literals, row) for row in rows]
    columns: list[list[str | None]] = [[row[n] for row in rows] for n in range(width)]
    keys, patterns = expand(template, *columns)
    assert keys == list(dict.fromkeys(answer for answer in answers if isinstance(answer, str)))
    assert patterns == ({template.pattern} if any(isinstance(a, ValueError) for a in answers) else set())
    assert all(matches(template.pattern, key) for key in keys)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_template_or_a_clear_mistake(text: str) -> None:
    found: NameMistake | None = None
    try:
        template = Template.parse(text)
    except NameMistake as mistake:
        found = mistake
    if found is None:
        assert len(template.literals) == len(template.columns) + 1
    else:
        assert found.problem
        assert found.remedy.endswith(".")

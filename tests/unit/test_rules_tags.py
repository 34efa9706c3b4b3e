"""``tags`` in a rules file."""

import pytest

from unstale.errors import RuleErrors
from unstale.protocol.messages import PublishedRules
from unstale.protocol.tags import record
from unstale_worker.rules import Plan, Rules, difference

TAGGED = """
[[watch]]
table = "public.memories"
columns = ["content"]
tags = ["user:{user_id}:memories"]

[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]
tags = ["user:{id}:prompt", "prompts"]
"""


def test_a_tag_is_planned_as_its_record() -> None:
    rules, plan = Rules.parse(TAGGED), Plan()
    assert rules.tables["public", "memories"].keys == ("user_id",)
    rules.plan("public", "memories", ["user_id"], ["7", None, "8"], plan)
    rules.plan("public", "profiles", ["id"], ["9"], plan)
    tags = ["user:7:memories", "user:8:memories", "user:9:prompt", "prompts"]
    assert sorted(plan.keys) == sorted(["user:9:profile", *map(record, tags)])
    assert not plan.patterns


def test_a_truncate_or_an_odd_value_invalidates_the_pattern_of_the_tag() -> None:
    rules = Rules.parse(TAGGED)
    for key_columns, flat in ((("user_id",), None), (("user_id",), ["x" * 513]), (("other",), ["1"])):
        plan = Plan()
        rules.plan("public", "memories", key_columns, flat, plan)
        assert (plan.patterns, plan.keys) == ({record("user:*:memories")}, {})


def test_agents_read_which_tags_the_rules_own() -> None:
    published = PublishedRules.decode(Rules.parse(TAGGED).published())
    assert published.owns(record("user:1:memories"))
    assert published.owns(record("prompts"))
    assert not published.owns("user:1:memories")
    before = PublishedRules.decode(
        Rules.parse(TAGGED.replace("user:{id}:prompt", "user:{id}:greet")).published()
    )
    assert sorted(difference(before, published).dropped) == [record("user:*:greet"), record("user:*:prompt")]


@pytest.mark.parametrize(
    ("text", "field", "line", "problem"),
    [
        ('[[watch]]\ntable = "t"\n', "watch[0]", 1, "keys is missing"),
        ('[[watch]]\ntable = "t"\ntags = []\n', "watch[0].tags", 3, "not empty"),
        ('[[watch]]\ntable = "t"\ntags = ["{id}"]\n', "watch[0].tags[0]", 3, "its pattern would be *"),
        ('[[watch]]\ntable = "t"\ntags = ["a:{id"]\n', "watch[0].tags[0]", 3, "a brace without"),
        ('[[watch]]\ntable = "t"\ntags = ["a", "a"]\n', "watch[0].tags[1]", 3, "listed twice"),
        ('[[watch]]\ntable = "t"\ntag = ["a"]\n', "watch[0].tag", 3, "unknown field"),
        ('[[watch]]\ntable = "t"\npurge = true\ntags = ["a:{id}"]\n', "watch[0].tags", 4, "cannot be purged"),
        ('[[watch]]\ntable = "t"\nkeys = ["unstale:tag:{id}"]\n', "watch[0].keys[0]", 3, "reserves"),
        (
            '[[watch]]\ntable = "t"\ntags = ["a:{id}"]\n[refresh."a:{id}"]\nloader = "a:b"\n',
            'refresh."a:{id}"', 4, "a tag",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(text: str, field: str, line: int, problem: str) -> None:
    with pytest.raises(RuleErrors) as caught:
        Rules.parse(text, file="my.toml")
    (error,) = caught.value.errors
    assert (error.field, error.line) == (field, line)
    assert problem in error.problem

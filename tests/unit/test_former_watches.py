"""Former watches: which ones new rules lack, what they invalidate, and what is not legible."""

from __future__ import annotations

import orjson
import pytest

from unstale.protocol.key_watches import KeyWatch, decoded, decoded_kept, encoded, encoded_kept, file_hash
from unstale.protocol.messages import PublishedRules
from unstale_worker.rules import Plan, Rules, removed, with_former
from unstale_worker.rules.difference import difference

OLD = Rules.parse("""
[[watch]]
table = "people"
columns = ["name"]
keys = ["user:{id}:name", "user:{id}:all"]
tags = ["team:{team}"]
[[watch]]
table = "teams"
keys = ["user:{id}:team"]
query = "select id from people where team = {id}"
""")
NEW = Rules.parse("""
[[watch]]
table = "people"
keys = ["user:{id}:name", "user:{mail}:all"]
""")


def published(rules: Rules) -> PublishedRules:
    """Return the rules as they come back from Redis."""
    return PublishedRules.decode(rules.published())


def test_what_new_rules_include_is_not_kept() -> None:
    """A watch of all columns includes one of a few; the time of an older removal stays."""
    former = removed(NEW, published(OLD), now=5.0)
    assert {watch.template for watch in former} == {
        "user:{id}:all",
        "unstale:tag:team:{team}",
        "user:{id}:team",
    }
    assert removed(OLD, published(OLD), now=5.0) == {}
    rules = with_former(NEW, former)
    assert removed(NEW, published(rules), now=9.0) == former
    assert removed(OLD, published(rules), now=9.0).keys() == {
        known for watch in NEW.watches for known in watch.key_watches
    }
    assert (rules.hash != NEW.hash, file_hash(rules.hash)) == (True, NEW.hash)
    assert with_former(NEW, {}) is NEW


def test_they_invalidate_what_they_did_and_a_query_its_pattern() -> None:
    rules = with_former(NEW, removed(NEW, published(OLD), now=5.0))
    plan = Plan()
    rules.plan("public", "people", ["id", "mail", "team"], ["7", "m", "3"], plan)
    assert set(plan.keys) == {"user:7:name", "user:m:all", "user:7:all", "unstale:tag:team:3"}
    rules.plan("public", "teams", ["id"], ["3"], plan)
    assert (plan.patterns, plan.queries) == ({"user:*:team"}, {})
    rules.plan("public", "people", ["id", "mail"], ["7", "m"], plan)
    assert plan.patterns == {"user:*:team", "unstale:tag:team:*"}
    NEW.plan("public", "teams", ["id"], ["3"], only := Plan())
    assert not only


def test_only_what_the_new_rules_change_is_dropped() -> None:
    """First nothing of the former keys, and at the end those, with the ones that both kinds share."""
    rules = with_former(NEW, removed(NEW, published(OLD), now=5.0))
    assert difference(published(OLD), published(rules)).dropped.keys() == {"user:*:name", "user:*:all"}
    assert difference(published(rules), published(NEW)).dropped.keys() == {
        "user:*:all", "user:*:team", "unstale:tag:team:*",
    }  # fmt: skip
    assert published(rules).former_patterns == {"user:*:team", "unstale:tag:team:*"}
    assert published(rules).former_owners("user:3:team") == {"user:*:team"}
    assert not published(rules).former_owners("user:3:all"), "the new rules have that pattern, too"


@pytest.mark.parametrize(
    "data",
    [
        None,
        1,
        "x",
        [1],
        [[]],
        [["public", "people", [1], "", "user:{id}", False]],
        [["public", "people", [], "", "a", False]],
    ],
)
def test_what_is_not_legible_is_not_kept(data: object) -> None:
    assert decoded(data) == ()
    assert decoded_kept(data) == ()
    wrong = KeyWatch("public", "people", None, "", "{id}", False)
    assert with_former(NEW, {wrong: 1.0}) is NEW, "its pattern would be *"


def test_they_come_back_from_json() -> None:
    rules = with_former(NEW, removed(NEW, published(OLD), now=5.0))
    own = published(rules)
    assert decoded(orjson.loads(orjson.dumps(encoded(own.watches)))) == own.watches
    assert decoded_kept(orjson.loads(orjson.dumps(encoded_kept(own.kept)))) == own.kept == rules.kept

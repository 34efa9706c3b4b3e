"""Which patterns a restart with other rules has to drop: those whose meaning changed, and no others."""

from __future__ import annotations

import pytest

from unstale.protocol.messages import PublishedRules
from unstale_worker.rules import Rules, difference, removed, with_former
from unstale_worker.rules.difference import LOST, NEW, REFRESHES, REMOVED, UNKNOWN, WATCHES

RULES = """
[[watch]]
table = "profiles"
keys = ["user:{id}:profile", "user:{id}:greeting"]
[[watch]]
table = "memories"
columns = ["content", "weight"]
keys = ["user:{user_id}:greeting"]
[[watch]]
table = "organizations"
keys = ["user:{user_id}:settings"]
query = "select user_id from members where org_id = {id}"
[ttl]
"user:*:profile" = "1h"
"user:*" = "30m"
[refresh."user:{id}:greeting"]
loader = "greetings:load"
ttl = "10m"
"""
GREETING, PROFILE, SETTINGS = "user:*:greeting", "user:*:profile", "user:*:settings"
MEMORIES = 'table = "memories"'


def published(text: str) -> PublishedRules:
    return PublishedRules.decode(Rules.parse(text).published())


@pytest.mark.parametrize(
    ("old", "new", "dropped", "lives"),
    [
        ("", "", {}, ()),
        ('["content", "weight"]', '["weight",  "content"]', {}, ()),
        ('columns = ["content", "weight"]\n', "", {GREETING: WATCHES}, ()),
        ('"weight"]', '"weight", "at"]', {GREETING: WATCHES}, ()),
        ('["content", "weight"]', '["weight"]', {}, ()),
        ('["content", "weight"]', '["weight"]\npurge = true', {}, ()),
        ('["content", "weight"]', '["weight", "at"]', {GREETING: WATCHES}, ()),
        ('table = "profiles"', 'table = "profiles"\ncolumns = ["name"]', {}, ()),
        (MEMORIES, 'table = "app.memories"', {GREETING: LOST}, ()),
        ("{user_id}:greeting", "{owner}:greeting", {GREETING: LOST}, ()),
        ("where org_id = {id}", "where org_id = {id} and active", {SETTINGS: WATCHES}, ()),
        ("select user_id from", "select user_id  from", {}, ()),
        ('["user:{user_id}:settings"]', '["user:{user_id}:set"]', {SETTINGS: REMOVED, "user:*:set": NEW}, ()),
        ("greetings:load", "greetings:load_again", {GREETING: REFRESHES}, ()),
        ('"10m"', '"5m"', {}, (GREETING,)),
        ('"10m"', '"10m"\nserve_stale = "2s"', {GREETING: REFRESHES}, ()),
        ('"10m"', '"10m"\ndebounce = "2s"', {}, ()),
        ('"10m"', '"10m"\nsoft_timeout = "2s"', {}, ()),
        ('"10m"', '"10m"\nstale_if_error = "2h"', {GREETING: REFRESHES}, ()),
        ("[ttl]", '[reads."user:{id}:profile"]\nstale_if_error = "2h"\n[ttl]', {PROFILE: REFRESHES}, ()),
        ('"1h"', '"2m"', {}, (PROFILE,)),
        ('"user:*" = "30m"', "", {}, ("user:*",)),
        ('"user:*:profile" = "1h"\n"user:*" = "30m"', '"user:*" = "30m"\n"user:*:profile" = "1h"', {},
         (PROFILE, "user:*")),
    ],
)  # fmt: skip
def test_only_what_changed_is_dropped(
    old: str, new: str, dropped: dict[str, str], lives: tuple[str, ...]
) -> None:
    assert old in RULES
    changed = difference(published(RULES), published(RULES.replace(old, new)))
    assert dict(changed.dropped) == dropped
    assert changed.lives == lives


def test_of_fewer_changes_what_agents_of_the_old_rules_need_ends_without_a_drop() -> None:
    """And what counted all the time beside them may count again; after the end it was missed."""
    few, fewer = Rules.parse(RULES), Rules.parse(RULES.replace('"content", "weight"', '"weight"'))
    beside = with_former(fewer, removed(fewer, published(RULES), now=5.0)).published()
    both, alone = PublishedRules.decode(beside), PublishedRules.decode(fewer.published())
    assert len(both.kept) == 1
    assert [dict(difference(*pair).dropped) for pair in [
        (published(RULES), both), (both, alone), (both, published(RULES)), (alone, published(RULES)),
    ]] == [{}, {}, {}, {GREETING: WATCHES}]  # fmt: skip
    assert few.hash != fewer.hash != both.hash


def test_the_order_of_watches_changes_nothing() -> None:
    first, *rest = RULES.partition("[ttl]")
    blocks = first.split("[[watch]]")
    turned = "[[watch]]".join(["", *reversed(blocks[1:])]) + "".join(rest)
    assert Rules.parse(turned).watches != Rules.parse(RULES).watches
    assert difference(published(RULES), published(turned)).dropped == {}


def test_rules_without_meanings_or_with_odd_ones_are_dropped_as_a_whole() -> None:
    old = published(RULES)
    for meanings in (None, 7, [["user:*:profile"]], [["user:*:profile", 3], 4]):
        data = old.encode().replace(b'"meanings"', b'"other"')
        if meanings is not None:
            data = data[:-1] + f', "meanings": {meanings}}}'.replace("'", '"').encode()
        dropped = difference(PublishedRules.decode(data), old).dropped
        assert dict.fromkeys(dropped.values()) == {UNKNOWN: None}
        assert set(dropped) == {GREETING, PROFILE, SETTINGS}

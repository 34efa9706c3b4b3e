"""What `unstale plan` says of each pattern is what happens to its keys."""

from __future__ import annotations

from itertools import product

import pytest

from unstale.protocol.globs import matches, overlap
from unstale.protocol.messages import PublishedRules
from unstale_worker.forecast.migrations import Compared
from unstale_worker.forecast.plan import RestartPlan, lines
from unstale_worker.forecast.restart import Restart, restart
from unstale_worker.rules import Rules
from unstale_worker.rules.difference import LOST, NEW, WATCHES

RULES = """
[[watch]]
table = "people"
keys = ["user:{id}"]
[[watch]]
table = "memories"
columns = ["content"]
keys = ["user:{user_id}:memories"]
tags = ["memories:{user_id}"]
[ttl]
"user:4*" = "1h"
"user:*:memories" = "1h"
"""
USER, MEMORIES, TAG = "user:*", "user:*:memories", "unstale:tag:memories:*"


def forecast(old: str, new: str, **counts: int) -> Restart:
    assert old in RULES
    before = PublishedRules.decode(Rules.parse(RULES).published())
    return restart(before, Rules.parse(RULES.replace(old, new)), name="before", counts=counts or None)


@pytest.mark.parametrize(
    ("old", "new", "fates"),
    [
        ('"people"', '"people"\ncolumns = ["name"]',
         {USER: ("keep", ""), MEMORIES: ("keep", ""), TAG: ("keep", "")}),
        ('"people"', '"persons"',
         {USER: ("drop", LOST), MEMORIES: ("drop", "its keys also match user:*, which is dropped"),
          TAG: ("keep", "")}),
        ('["content"]', '["content", "at"]',
         {USER: ("keep", "but for keys that also match user:*:memories, which is dropped"),
          MEMORIES: ("drop", WATCHES), TAG: ("drop", WATCHES)}),
        ('["user:{user_id}:memories"]', '["user:{owner}:memories"]',
         {USER: ("keep", "but for keys that also match user:*:memories, which is dropped"),
          MEMORIES: ("drop", LOST), TAG: ("keep", "")}),
        ('"user:{id}"', '"user:{\\"id\\"}"',
         {USER: ("keep", ""), MEMORIES: ("keep", ""), TAG: ("keep", "")}),
        ('"user:4*" = "1h"', '"user:4*" = "1m"',
         {USER: ("shorten", "TTL of user:4*: 3600 s before, 60 s now"),
          MEMORIES: ("shorten", "TTL of user:4*: 3600 s before, 60 s now"), TAG: ("keep", "")}),
        ('memories" = "1h"', 'memories" = "2h"',
         {USER: ("keep",
                 "TTL of user:*:memories: 3600 s before, 7200 s now, for what is stored from then on"),
          MEMORIES: ("keep", "TTL: 3600 s before, 7200 s now, for what is stored from then on"),
          TAG: ("keep", "")}),
        ('tags = ["memories:{user_id}"]', 'tags = ["memories:{user_id}", "all"]',
         {USER: ("keep", ""), MEMORIES: ("keep", ""), TAG: ("keep", ""), "unstale:tag:all": ("drop", NEW)}),
    ],
)  # fmt: skip
def test_each_pattern(old: str, new: str, fates: dict[str, tuple[str, str]]) -> None:
    found = {fate.pattern: (fate.action, fate.why) for fate in forecast(old, new).patterns}
    assert found == fates


def test_the_values_of_a_tag_are_not_counted() -> None:
    """One record of a tag may stand for any number of values."""
    counts = {TAG: 1, MEMORIES: 3}
    found = forecast('"memories:{user_id}"', '"memories:{owner}"', **counts)
    assert found.loads is None
    said = "\n".join(lines(RestartPlan("unstale.toml", found, (), Compared(), None)))
    assert "drop     tag memories:*   1 tag  " in said
    assert "load: tag memories:*: 1 tag  each value stored with it, by the reader's loader" in said
    assert "values with a dropped tag cannot be counted" in said
    assert forecast('"memories:{user_id}"', '"memories:{owner}"', **counts | {TAG: 0}).loads == 0


def test_two_globs_overlap_if_some_key_matches_both() -> None:
    globs = ["".join(each) for length in range(1, 5) for each in product("ab*", repeat=length)]
    keys = ["".join(each) for length in range(7) for each in product("ab", repeat=length)]
    matched = {glob: {key for key in keys if matches(glob, key)} for glob in globs}
    for one, other in product(globs[:60], globs):
        assert overlap(one, other) == bool(matched[one] & matched[other]), (one, other)
    assert overlap("a\\*b", "a*b")
    assert not overlap("a\\*b", "acb")
    assert overlap("a[bc]?", "*c")

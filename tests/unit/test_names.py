"""Names: the fixed ones, and globs that match as in Redis."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale import escape_glob
from unstale.protocol.globs import check_glob, matches
from unstale.protocol.names import LEASE, SOFT_LEASE, Names

HOSTILE = st.text(alphabet="ab*?[]^-\\é:", max_size=12)


def test_the_keys_of_the_default_namespace() -> None:
    names = Names()
    assert [names.state, names.rules, names.log, names.leader, names.channel] == [
        "{unstale:0}:state",
        "{unstale:0}:rules",
        "{unstale:0}:log",
        "{unstale:0}:leader",
        "{unstale:0}:invalidations",
    ]
    assert [names.stale("user:42:greeting"), names.refresh, names.dead_letters] == [
        "{unstale:0}:stale:user:42:greeting",
        "{unstale:0}:refresh",
        "{unstale:0}:dead",
    ]
    assert names.permanent == {
        names.state,
        names.rules,
        names.log,
        names.claim,
        names.refresh,
        names.dead_letters,
        names.refresh_counts,
    }


@pytest.mark.parametrize("namespace", ["", "a b", "a{b}", "x" * 65, "a:b"])
def test_a_namespace_that_would_break_the_hash_tag_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Names(namespace)


def test_no_json_begins_like_a_lease() -> None:
    assert LEASE[:1] == SOFT_LEASE[:1] == b"\x00"
    assert not LEASE.startswith(SOFT_LEASE)
    assert not SOFT_LEASE.startswith(LEASE)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("user:*:profile", "user:42:profile", True),
        ("user:*:profile", "user:42:profile:x", False),
        ("*", "", True),
        ("a?c", "abc", True),
        ("a?c", "aéc", False),  # a byte, as in Redis
        ("a??c", "aéc", True),
        ("[a-c]x", "bx", True),
        ("[c-a]x", "bx", True),
        ("[^a]x", "ax", False),
        ("[a", "a", True),
        ("[a-é]", "A", True),  # bytes as C's signed char: from -61 to 97, and é is the two bytes C3 and A9
        ("[a-é]", "b", False),
        ("[A:\né-*", "!", True),
        ("[^a-é]", "b", True),
        (r"\*", "*", True),
        (r"\*", "a", False),
        ("a\\", "a\\", True),
        ("a*b*c", "aXbYbZc", True),
    ],
)
def test_globs_match_as_in_redis(pattern: str, key: str, expected: bool) -> None:
    assert matches(pattern, key) is expected


@given(HOSTILE, HOSTILE)
def test_an_escaped_text_matches_itself_and_nothing_else(text: str, other: str) -> None:
    assert matches(escape_glob(text), text)
    assert matches(escape_glob(text), other) == (text == other)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("[a-é]*", "outside ASCII"),
        ("[é-a]", "outside ASCII"),
        ("x[^é-€", "outside ASCII"),
        ("[A:\né-*", "outside ASCII"),
        ("", "empty"),
        ("*a" * 1_001, "1000 stars"),
        ("a" * 4_097, "4096 bytes"),
        ("\ud800", "surrogate"),
    ],
)
def test_a_glob_that_servers_match_differently_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_glob(pattern)


@pytest.mark.parametrize(
    "pattern", ["*", "é*", "[éa-c]", "[a-c]é-x", r"\[a-é]", "[a\\-é]", "*a" * 1_000, "[", "[^"]
)
def test_any_other_glob_is_accepted(pattern: str) -> None:
    assert check_glob(pattern) == pattern


def test_a_hostile_pattern_takes_no_exponential_time() -> None:
    # In a process of its own, so that it can be stopped if it does not end.
    code = "from unstale.protocol.globs import matches; print(matches('*a' * 60 + 'b', 'a' * 1000))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "False\n"

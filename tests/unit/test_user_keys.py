"""A pattern from a model never reaches the keys of another user."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unstale import ToolError
from unstale.companion.tools.user_scope import UserKeys
from unstale.protocol.globs import matches

# What could mean something to a glob, to a key or to a template.
HOSTILE = st.text(alphabet="ab1042*?[]^-\\:{}%/ éuser:", max_size=24)
IDS = st.text(alphabet="ab1042*?[]^-\\{}%é", min_size=1, max_size=8)


@given(one=IDS, other=IDS, said=HOSTILE, rest=HOSTILE)
@example(one="1", other="10", said="user:1*", rest="profile")
@example(one="1", other="10", said="*", rest="profile")
@example(one="4\\", other="4\\*", said="*", rest="profile")
@example(one="[12]", other="1", said="*", rest="profile")
@example(one="*", other="42", said="*", rest="profile")
@example(one="?", other="4", said="?*", rest="profile")
@example(one="a", other="b", said="]:*", rest="profile")
@example(one="a", other="b", said="\\", rest="profile")
def test_no_pattern_of_one_user_matches_a_key_of_another(one: str, other: str, said: str, rest: str) -> None:
    mine = UserKeys(one)
    foreign = f"user:{other}:{rest}"
    for pattern in (mine.everything, *accepted(mine.pattern, said)):
        assert one == other or not matches(pattern, foreign)
        assert not matches(pattern, "{unstale:0}:state")
    for key in accepted(mine.key, said):
        assert key.startswith(f"user:{one}:")


@given(own=IDS, rest=st.text(alphabet="ab*?[]^-\\é", min_size=1, max_size=12))
def test_everything_is_really_everything(own: str, rest: str) -> None:
    assert matches(UserKeys(own).everything, f"user:{own}:{rest}")


@given(own=IDS, name=st.text(alphabet="abc_é", min_size=1, max_size=12))
def test_a_plain_name_is_that_key_and_no_other(own: str, name: str) -> None:
    keys = UserKeys(own)
    assert keys.key(name) == keys.key(f"user:{own}:{name}") == f"user:{own}:{name}"
    assert matches(keys.pattern(name), keys.key(name))
    assert not matches(keys.pattern(name), keys.key(name) + "x")
    assert keys.name(keys.key(name)) == name
    assert keys.name(f"user:{own}x:{name}") is None


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("*", "user:42:*"),
        ("profile", "user:42:profile"),
        ("greeting*", "user:42:greeting*"),
        ("user:42:*", "user:42:*"),
        ("{unstale:0}:*", "user:42:{unstale:0}:*"),
        ("u[s]er:43:*", "user:42:u[s]er:43:*"),
    ],
)
def test_patterns_are_relative_to_the_user(said: str, meant: str) -> None:
    assert UserKeys(42).pattern(said) == meant


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("user:43:*", "Only the current user's keys can be reached"),
        ("user:4*", "Only the current user's keys"),
        ("user:*", "Only the current user's keys"),
        ("user:{user_id}:profile", "Only the current user's keys"),
        ("user:42", "Only the current user's keys"),
        ("", "is empty"),
        ("   ", "is empty"),
        ("user:42:", "is empty"),
        ("*****", "at most 4 stars"),
        ("x" * 257, "longer than 256 bytes"),
        ("a\nb", "unprintable"),
        ("a\x00b", "unprintable"),
        ("\ud800", "unprintable"),
        (None, "has to be a string"),
        (["*"], "has to be a string"),
    ],
)
def test_what_cannot_be_meant_is_answered_with_a_sentence(said: object, sentence: str) -> None:
    with pytest.raises(ToolError, match=sentence):
        UserKeys(42).pattern(said)


@pytest.mark.parametrize(
    "user_id", ["", " ", " 42", "42\n", None, True, "1:profile", ":", "a\x00", "x" * 201, "\ud800"]
)
def test_an_id_that_names_nobody_is_refused(user_id: object) -> None:
    with pytest.raises(ValueError, match="user id"):
        UserKeys(user_id)


@pytest.mark.parametrize("user_id", [42, "42", UUID(int=42), "a*b", "é", "user@example.com"])
def test_ids_as_people_have_them(user_id: object) -> None:
    assert UserKeys(user_id).prefix == f"user:{user_id}:"


def accepted(method: object, said: str) -> list[str]:
    try:
        return [method(said)]  # type: ignore[operator]
    except ToolError:
        return []


def test_a_pattern_that_servers_match_differently_is_refused() -> None:
    with pytest.raises(ToolError, match="range"):
        UserKeys(1).pattern("[a-é]*")

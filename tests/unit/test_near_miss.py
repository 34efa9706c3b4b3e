"""The pattern that a mistyped key was probably meant for."""

import pytest

from unstale.freshness.near_miss import near_miss

PATTERNS = ("user:*:profile", "user:*:settings", r"org:\[*\]:plan", "a:*")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("user:5:profil", "user:*:profile"),
        ("user:5:profiles", "user:*:profile"),
        ("user:5:porfile", "user:*:profile"),
        ("usr:5:profile", "user:*:profile"),
        ("user-5:profile", "user:*:profile"),
        ("user:5:setings", "user:*:settings"),
        ("User:5:Settings", "user:*:settings"),
        ("org:[5]:pla", r"org:\[*\]:plan"),
        ("user:5:prefs", None),
        ("user:5", None),
        ("b:5", None),
        ("session:5", None),
        ("user:" + "5" * 300 + ":profil", None),
    ],
)
def test_one_or_two_letters_are_a_typo(key: str, meant: str | None) -> None:
    assert near_miss(key, PATTERNS, matched="user:*") == meant


def test_a_ttl_that_names_the_key_says_that_it_is_meant() -> None:
    assert near_miss("user:5:profil", PATTERNS, matched="user:*:profil") is None
    assert near_miss("user:5:profil", PATTERNS, matched="*:5:*") == "user:*:profile"

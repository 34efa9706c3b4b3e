"""Finds the published pattern that a mistyped key was probably meant for. Pure."""

import re
from collections.abc import Iterable
from typing import Final

MOST_TYPOS: Final = 2
"""Most letters that differ between a key and the pattern it was meant for."""
LETTERS_A_TYPO: Final = 4
"""Least literal letters of a pattern for each letter that may differ."""
LONGEST_KEY: Final = 200
"""Longest key that is compared; the work grows with its length."""

_TOKENS: Final = re.compile(r"\\(.)|(\*)|(\[[^\]]*\]|\?)|(.)", re.DOTALL)


def near_miss(key: str, patterns: Iterable[str], *, matched: str = "") -> str | None:
    """Return the pattern that ``key`` misses by one or two letters, or None.

    ``matched`` is the ``[ttl]`` pattern that the key matches. If it says about as much as the pattern that
    would be suggested, the key was meant as it is.
    """
    if len(key) > LONGEST_KEY:
        return None
    best, found = MOST_TYPOS + 1, None
    named = _literals(matched)
    for pattern in patterns:
        literals = _literals(pattern)
        allowed = min(MOST_TYPOS, literals // LETTERS_A_TYPO)
        if (
            named + MOST_TYPOS < literals
            and 0 < (typos := _distance(key, pattern)) <= allowed
            and typos < best
        ):
            best, found = typos, pattern
    return found


def _literals(pattern: str) -> int:
    return sum(bool(escaped or plain) for escaped, _, _, plain in _TOKENS.findall(pattern))


def _distance(key: str, pattern: str) -> int:
    """Return how many letters of ``key`` must be replaced, added or removed until the glob matches."""
    row = list(range(len(key) + 1))
    for escaped, star, single, plain in _TOKENS.findall(pattern):
        if star:
            for at in range(1, len(row)):
                row[at] = min(row[at], row[at - 1])
            continue
        wanted, before = escaped or plain, row
        row = [before[0] + 1]
        for at, letter in enumerate(key):
            same = bool(single) or letter == wanted
            row.append(min(before[at] + (not same), before[at + 1] + 1, row[at] + 1))
    return row[-1]

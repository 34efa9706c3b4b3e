"""Finds the existing keys that patterns match."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from unstale.protocol.globs import glob_regex
from unstale.protocol.names import TAG, Names

SCAN_COUNT: Final = 1_000
"""Keys that one SCAN step visits, in about 0.2 ms of the server's time."""
SINGLE_PASS: Final = 4
"""From this many patterns on, one SCAN returns all keys and they are matched here, not one SCAN each."""


async def scan(
    command: Callable[..., Awaitable[Any]], names: Names, patterns: Sequence[str], *, stale: bool
) -> AsyncIterator[list[bytes]]:
    """Yield the names of the matching keys in steps, with ``stale`` also of their stale values.

    None of unstale's own is among them. Raises what ``command`` raises. One pass may find a key's stale value
    before the key. That loses nothing: only the leader turns a value into a stale value, and it is the one
    scanning.
    """
    own, kept, claim = names.own.encode(), names.stale("").encode(), names.claim.encode()
    patterns = list(map(names.stored, patterns))
    globs = [*patterns, *map(names.stale, patterns)] if stale else patterns
    tests = []
    if len(globs) >= SINGLE_PASS:
        globs = [names.stored("*"), names.stored(f"{TAG}*")] if names.cluster else ["*"]
        globs += [names.stale("*")] if names.cluster and stale else []
        tests = [glob_regex(pattern).match for pattern in patterns]
    for glob in globs:
        cursor = b"0"
        while True:
            cursor, found = await command("SCAN", cursor, "MATCH", glob, "COUNT", SCAN_COUNT)
            keys: list[bytes] = [
                key
                for key in found
                if not (key.startswith(own) or key == claim) or (stale and key.startswith(kept))
            ]
            if tests:
                keys = [key for key in keys if any(test(key.removeprefix(kept)) for test in tests)]
            if keys:
                yield keys
            if cursor == b"0":
                break

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
    command: Callable[..., Awaitable[Any]], names: Names, patterns: Sequence[str], *, beside: bool
) -> AsyncIterator[list[bytes]]:
    """Yield the names of the matching keys in steps, then with ``beside`` of their stale and spare values.

    No other of unstale's own is among them. Raises what ``command`` raises. The keys come first: until the
    scan has passed a key, a fill may store its spare value.
    """
    own, claim = names.own.encode(), names.claim.encode()
    prefixes = names.stale("").encode(), names.spare("").encode()
    patterns = list(map(names.stored, patterns))
    tests = [glob_regex(pattern).match for pattern in patterns]
    single = len(patterns) * (2 if beside else 1) >= SINGLE_PASS
    every = [names.stored("*"), names.stored(f"{TAG}*")] if names.cluster else ["*"]
    globs = [(glob, False) for glob in (every if single else patterns)]
    if beside:
        globs += [(names.beside(glob), True) for glob in (["*"] if single else patterns)]
    for glob, own_names in globs:
        cursor = b"0"
        while True:
            cursor, found = await command("SCAN", cursor, "MATCH", glob, "COUNT", SCAN_COUNT)
            keys: list[bytes] = [
                key
                for key in found
                if (key.startswith(prefixes) if own_names else not key.startswith(own) and key != claim)
            ]
            if single:
                keys = [key for key in keys if _matches(key, prefixes if own_names else (), tests)]
            if keys:
                yield keys
            if cursor == b"0":
                break


def _matches(key: bytes, prefixes: Sequence[bytes], tests: Sequence[Callable[[bytes], object]]) -> bool:
    for prefix in prefixes:
        key = key.removeprefix(prefix)
    return any(test(key) for test in tests)

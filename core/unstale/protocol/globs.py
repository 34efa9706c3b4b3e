"""Redis globs: quoting, checking, compiling and matching them as Redis does."""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final

MAX_GLOB_BYTES: Final = 4_096
"""Longest glob that a caller may give; a key has at most 1 KiB."""
MAX_STARS: Final = 1_000
"""Most stars in a glob that a caller may give. With more, Redis matches no key at all."""


def escape_glob(text: str) -> str:
    r"""Quote what a Redis glob would interpret (``* ? [ ] \``) in ``text``.

    >>> print(escape_glob("a*b"))
    a\*b
    """
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def check_glob(pattern: str) -> str:
    """Return ``pattern``; raises ValueError for a glob that servers match differently, or not at all.

    Redis compares bytes as C's ``char``. That is signed on x86 and unsigned on most ARM machines, so a range
    from or to a byte of a non-ASCII character has two meanings.
    """
    try:
        data = pattern.encode()
    except UnicodeEncodeError:
        raise ValueError(f"glob {pattern!r} contains a lone surrogate, which Redis cannot store") from None
    if not data:
        raise ValueError("an empty pattern matches nothing; did you mean '*'?")
    if len(data) > MAX_GLOB_BYTES:
        raise ValueError(
            f"a glob is at most {MAX_GLOB_BYTES} bytes long, and {pattern[:60]!r}… has {len(data)}"
        )
    if data.count(b"*") > MAX_STARS:
        raise ValueError(
            f"a glob has at most {MAX_STARS} stars, and {pattern[:60]!r}… has {data.count(b'*')}"
        )
    if not data.isascii() and _has_ambiguous_range(data):
        raise ValueError(
            f"glob {pattern!r} has a range in [...] that begins or ends with a character outside ASCII: its "
            "meaning depends on the server's processor; list the characters instead, or use ? or *"
        )
    return pattern


def _has_ambiguous_range(data: bytes) -> bool:
    i = 0
    while i < len(data):
        if data[i : i + 1] == b"[":
            _, ranges, i = _members(data, i + 2 if data[i + 1 : i + 2] == b"^" else i + 1)
            if any(low >= 128 or high >= 128 for low, high in ranges):
                return True
        else:
            i += 2 if data[i : i + 1] == b"\\" else 1
    return False


@lru_cache(maxsize=4096)
def literal_beginning(pattern: str) -> str:
    r"""Return the text that every key matching a Redis glob begins with.

    >>> literal_beginning("user:42:*")
    'user:42:'
    """
    literal = ""
    characters = iter(pattern)
    for character in characters:
        if character in "*?[":
            break
        literal += next(characters, character) if character == "\\" else character
    return literal


@lru_cache(maxsize=4096)
def glob_regex(pattern: str) -> re.Pattern[bytes]:
    r"""Compile a Redis glob into an equivalent expression over UTF-8 bytes.

    Redis matches byte by byte, so this does too: ``?`` is one *byte*. The expression never backtracks over
    more than one ``*`` (each earlier one is atomic), so a hostile pattern costs O(len(pattern) * len(key)).
    An unclosed ``[`` reaches to the end of the pattern, as in Redis.
    """
    data = pattern.encode("utf-8", "surrogatepass")
    segments: list[bytes] = [b""]
    i = 0
    while i < len(data):
        byte = data[i : i + 1]
        if byte == b"*":
            if segments[-1] or len(segments) == 1:
                segments.append(b"")
            i += 1
        elif byte == b"?":
            segments[-1] += b"."
            i += 1
        elif byte == b"\\" and i + 1 < len(data):
            segments[-1] += re.escape(data[i + 1 : i + 2])
            i += 2
        elif byte == b"[":
            expression, i = _byte_class(data, i + 1)
            segments[-1] += expression
        else:
            segments[-1] += re.escape(byte)
            i += 1
    if len(segments) == 1:
        return re.compile(segments[0] + rb"\Z", re.DOTALL)
    first, *middle, last = segments
    atomic = b"".join(b"(?>.*?" + segment + b")" for segment in middle)
    return re.compile(first + atomic + b".*" + last + rb"\Z", re.DOTALL)


def overlap(one: str, other: str) -> bool:
    """Return True if some key matches both globs; a class of characters counts as any character.

    >>> overlap("user:*", "*:profile"), overlap("user:*:profile", "user:*:settings")
    (True, False)
    """
    a, b = _steps(one), _steps(other)
    # reach[j]: the rest of `a` and the rest of `b` from j on have a key in common.
    reach = [all(step == b"*" for step in b[j:]) for j in range(len(b) + 1)]
    for step in reversed(a):
        after, reach = reach, [False] * (len(b) + 1)
        for j in range(len(b), -1, -1):
            if step == b"*":
                reach[j] = after[j] or (j < len(b) and reach[j + 1])
            elif j < len(b) and b[j] == b"*":
                reach[j] = reach[j + 1] or after[j]
            elif j < len(b):
                reach[j] = (step == b[j] or b"?" in (step, b[j])) and after[j + 1]
    return reach[0]


def _steps(pattern: str) -> list[bytes]:
    """Split a glob into stars, ``?`` for any one byte, and single bytes."""
    data = pattern.encode("utf-8", "surrogatepass")
    found: list[bytes] = []
    i = 0
    while i < len(data):
        byte = data[i : i + 1]
        if byte == b"[":
            found.append(b"?")
            i = _byte_class(data, i + 1)[1]
        elif byte == b"\\" and i + 1 < len(data):
            literal = data[i + 1 : i + 2]
            found.append(b"\\" + literal if literal in (b"*", b"?") else literal)
            i += 2
        else:
            found.append(byte)
            i += 1
    return found


@lru_cache(maxsize=4096)
def segments_regex(pattern: str) -> re.Pattern[bytes]:
    r"""Compile the pattern of a key template so that no placeholder reaches across a colon.

    >>> bool(segments_regex("user:*").match(b"user:42")), bool(segments_regex("user:*").match(b"user:42:a"))
    (True, False)
    """
    parts = re.findall(rb"\\.|.", pattern.encode("utf-8", "surrogatepass"), re.DOTALL)
    literals = [b""]
    for part in parts:
        if part == b"*":
            literals.append(b"")
        else:
            literals[-1] += re.escape(part[1:] if len(part) > 1 else part)
    if len(literals) == 1:
        return re.compile(literals[0] + rb"\Z", re.DOTALL)
    first, *middle, last = literals
    # The first place is as good as any later one, so earlier stars are atomic: the cost is linear.
    atomic = b"".join(b"(?>[^:]*?" + literal + b")" for literal in middle)
    return re.compile(first + atomic + b"[^:]*" + last + rb"\Z", re.DOTALL)


def _byte_class(data: bytes, i: int) -> tuple[bytes, int]:
    negated = data[i : i + 1] == b"^"
    members, ranges, i = _members(data, i + 1 if negated else i)
    for low, high in ranges:
        low, high = sorted((_signed(low), _signed(high)))
        members.update(number % 256 for number in range(low, high + 1))
    allowed = set(range(256)) - members if negated else members
    return (b"[" + _runs(allowed) + b"]" if allowed else b"(?!)"), i


def _members(data: bytes, i: int) -> tuple[set[int], list[tuple[int, int]], int]:
    """Parse a class from behind ``[`` or ``[^``; return single bytes, ends of ranges, and where it ends."""
    members: set[int] = set()
    ranges: list[tuple[int, int]] = []
    while i < len(data) and data[i : i + 1] != b"]":
        if data[i : i + 1] == b"\\" and i + 1 < len(data):
            members.add(data[i + 1])
            i += 2
        elif data[i + 1 : i + 2] == b"-" and i + 2 < len(data):
            ranges.append((data[i], data[i + 2]))
            i += 3
        else:
            members.add(data[i])
            i += 1
    return members, ranges, i + 1


def _signed(byte: int) -> int:
    """Return a byte as x86 compares it; `check_glob` refuses the ranges for which that matters."""
    return byte - 256 if byte >= 128 else byte


def _runs(allowed: Collection[int]) -> bytes:
    """Write bytes as ranges of an expression's class, which compile faster than single bytes."""
    parts: list[bytes] = []
    for byte in range(256):
        if byte in allowed and byte - 1 not in allowed:
            last = byte
            while last + 1 in allowed:
                last += 1
            parts.append(b"\\x%02x-\\x%02x" % (byte, last))
    return b"".join(parts)


def matches(pattern: str, key: str) -> bool:
    """Return True if the Redis glob ``pattern`` matches the whole of ``key``."""
    return glob_regex(pattern).match(key.encode("utf-8", "surrogatepass")) is not None

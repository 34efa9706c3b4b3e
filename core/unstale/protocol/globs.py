"""Redis globs: quoting, compiling and matching them as Redis does."""

import re
from functools import lru_cache


def escape_glob(text: str) -> str:
    r"""Quote what a Redis glob would interpret (``* ? [ ] \``) in ``text``.

    >>> print(escape_glob("a*b"))
    a\*b
    """
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


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


def _byte_class(data: bytes, i: int) -> tuple[bytes, int]:
    negated = data[i : i + 1] == b"^"
    if negated:
        i += 1
    members: set[int] = set()
    while i < len(data) and data[i : i + 1] != b"]":
        if data[i : i + 1] == b"\\" and i + 1 < len(data):
            members.add(data[i + 1])
            i += 2
        elif data[i + 1 : i + 2] == b"-" and i + 2 < len(data):
            low, high = sorted((data[i], data[i + 2]))
            members.update(range(low, high + 1))
            i += 3
        else:
            members.add(data[i])
            i += 1
    allowed = set(range(256)) - members if negated else members
    if not allowed:
        return b"(?!)", i + 1
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(allowed)) + b"]", i + 1


def matches(pattern: str, key: str) -> bool:
    """Return True if the Redis glob ``pattern`` matches the whole of ``key``."""
    return glob_regex(pattern).match(key.encode("utf-8", "surrogatepass")) is not None

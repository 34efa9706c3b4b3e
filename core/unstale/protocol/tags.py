"""Tags: names under which any number of keys are invalidated together. Pure: no I/O.

A tag has one small record in Redis, under a key of its own. The record holds a random version, and a value
that is stored under tags carries them with their versions. It is valid only while all records are still there
with those versions. To invalidate a tag is to remove its record, as any key is removed: in one step, whatever
the number of values, and through the same log. A record that was evicted makes its values invalid too.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from unstale.protocol.names import TAG, TAGGED

NO_TAGS: Final[frozenset[str]] = frozenset()

MAX_TAG_BYTES: Final = 1_000
"""Longest tag in UTF-8: its record's key is then not longer than any other key."""
MAX_TAGS: Final = 16
"""Most tags of one value. Each is compared on each read of Redis."""


MOST_HEADER: Final = 20_000
"""Bytes at the beginning of a value, or a lease, in which all its tags stand."""

_BEGINNING: Final = re.compile(rb"\x00unstale:[a-z]+:\w+\n")
_TAG: Final = re.compile(rb"[0-9a-f]+:(\d+):")


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return ``tags`` sorted, each once; raises TypeError or ValueError for what cannot be a tag."""
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise TypeError(f"tags is {tags!r}: expected a list of texts, such as ['user:42:memories']")
    found = tuple(sorted({check_tag(tag) for tag in tags}))
    if len(found) > MAX_TAGS:
        raise ValueError(f"a value has at most {MAX_TAGS} tags, and here are {len(found)}")
    return found


def check_tag(tag: str) -> str:
    """Return ``tag``; raises TypeError or ValueError if it is not a text of 1 to 1,000 bytes."""
    if not isinstance(tag, str):
        raise TypeError(f"a tag is a str, and this one is a {type(tag).__name__}")
    try:
        size = len(tag.encode())
    except UnicodeEncodeError:
        raise ValueError(f"tag {tag!r} contains a lone surrogate, which Redis cannot store") from None
    if not 0 < size <= MAX_TAG_BYTES:
        raise ValueError(f"a tag is 1 to {MAX_TAG_BYTES} bytes long, and {tag[:60]!r}… has {size}")
    return tag


def record(tag: str) -> str:
    """Return the key of the record of ``tag``.

    >>> record("user:42:memories")
    'unstale:tag:user:42:memories'
    """
    return TAG + tag


def is_record(key: str) -> bool:
    """Return True if ``key`` is the key of a tag's record, or a glob that matches only such keys."""
    return key.startswith(TAG)


def header(tags: Sequence[str], versions: Sequence[bytes | None]) -> bytes | None:
    """Return the beginning of a value under exactly these sorted tags; None if a version is missing."""
    parts = [TAGGED]
    for tag, version in zip(tags, versions, strict=True):
        if version is None:
            return None
        name = tag.encode()
        parts.append(b"%b:%d:%b" % (version, len(name), name))
    parts.append(b"\n")
    return b"".join(parts)


def tags_of(content: bytes) -> tuple[str, ...]:
    """Return the tags that a value or a lease carries, for people; the scripts compare them."""
    begin, tags = _BEGINNING.match(content), list[str]()
    at = begin.end() if begin else len(content)
    while found := _TAG.match(content, at):
        at = found.end() + int(found[1])
        tags.append(content[found.end() : at].decode("utf-8", "replace"))
    return tuple(tags)


def without_header(content: bytes) -> bytes:
    """Return a value without the header that names its tags."""
    begin = _BEGINNING.match(content)
    if begin is None:
        return content
    at = begin.end()
    while found := _TAG.match(content, at):
        at = found.end() + int(found[1])
    return content[at + 1 :]


def shown(key: str) -> str:
    """Return a key, or a glob, for people: that of a record as ``tag`` and the tag.

    >>> shown("unstale:tag:user:42:memories")
    'tag user:42:memories'
    """
    return f"tag {key.removeprefix(TAG)}" if is_record(key) else key

"""Splits a batch into scripts: how many keys, how many bytes, and which of them are made new."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from unstale.protocol.messages import MAX_MESSAGE_BYTES, key_list
from unstale.protocol.names import Names
from unstale.redis_tier.scripts import Argument
from unstale_worker.rules import Renewal

BODY_BYTES: Final = MAX_MESSAGE_BYTES - 512
"""Room for keys and patterns in a message: the rest is its epoch, ids and punctuation."""
MOST_WAITING: Final = 100_000
"""Members of the refresh set; beyond that the ones due first go, and whoever reads such a key loads it."""
RENEWED_WEIGHT: Final = 4
"""Keys of a plain script that take the server as long as one that is made new (2 to 4 µs)."""
BEFORE_GROUPS: Final = 16
"""Arguments of ``apply.lua`` before those about keys that are made new."""


class Body(NamedTuple):
    """What one script removes and says: a tuple, as there is one for each script of a large batch."""

    keys: Sequence[str]
    keys_json: bytes
    patterns_json: bytes


def split(keys: Sequence[str], patterns: Sequence[str], *, most_keys: int) -> Iterator[Body]:
    """So many keys a script, so many bytes of JSON, all patterns in the last ones."""
    for start in range(0, len(keys), most_keys):
        yield from _fitting(list(keys[start : start + most_keys]), as_patterns=False)
    if patterns:
        yield from _fitting(list(patterns), as_patterns=True)


def renewed(
    keys: Sequence[str], renewals: Mapping[str, Renewal], names: Names
) -> tuple[list[str], list[Argument]]:
    """The keys of a script with those that are made new at their end, and what it must know of these."""
    groups: dict[Renewal, list[str]] = {}
    ordered: list[str] = []
    for key in keys:
        renewal = renewals.get(key)
        if renewal is None:
            ordered.append(key)
        else:
            groups.setdefault(renewal, []).append(key)
    if not groups:
        return ordered, []
    ordered.append(names.refresh)
    arguments: list[Argument] = [sum(map(len, groups.values())), MOST_WAITING]
    for renewal, members in groups.items():
        arguments += [len(members), renewal.serve_ms, renewal.debounce_ms, int(renewal.only_if_cached)]
        for key in members:
            ordered += [key, names.stale(key)]
    return ordered, arguments


def _fitting(items: list[str], *, as_patterns: bool) -> Iterator[Body]:
    encoded = key_list(items)
    if len(encoded) > BODY_BYTES and len(items) > 1:
        middle = len(items) // 2
        yield from _fitting(items[:middle], as_patterns=as_patterns)
        yield from _fitting(items[middle:], as_patterns=as_patterns)
    elif as_patterns:
        yield Body([], b"[]", encoded)
    else:
        yield Body(items, encoded, b"[]")

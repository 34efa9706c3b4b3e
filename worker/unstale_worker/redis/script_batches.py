"""Builds the arguments of the worker's scripts: headers, and batches split by keys and bytes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from unstale.protocol.messages import MAX_MESSAGE_BYTES, key_list
from unstale.protocol.names import Names
from unstale.protocol.reasons import Kind, simple_reason
from unstale_worker.redis.state import Seen
from unstale_worker.rules import Renewal

BODY_BYTES: Final = MAX_MESSAGE_BYTES - 512
"""Room for keys and patterns in a message; its epoch, ids and punctuation take the rest."""
MOST_WAITING: Final = 100_000
"""Members of the refresh set. Beyond that the ones due first are dropped; a reader of such a key loads it."""
REFRESH_WEIGHT: Final = 4
"""Plain keys that take the server as long as one key to refresh (2 to 4 µs)."""


class ScriptBody(NamedTuple):
    """The keys and messages of one script call. A tuple, because a large batch has many."""

    keys: Sequence[str]
    keys_json: bytes
    patterns_json: bytes


def script_header(**fields: Any) -> bytes:
    """Encode the first argument of a script; the Lua files say which fields each reads.

    Lua reads every JSON number as a double. Positions, log ids and the fence are therefore strings.
    """
    return orjson.dumps(fields)


def watermark_fields(seen: Seen, *, rules: str) -> dict[str, str]:
    """Build the header's ``watermark``: the newest read that is applied as a whole, and how old it is.

    ``began``, its beginning by the server's clock, is there if it is known. A worker may be paused at any
    moment, also between its look at the clock and the script; with ``began`` the age is not understated.
    """
    fields = {"seen": seen.snapshot, "rules": rules, "age_ms": seen.age_ms(time.monotonic())}
    fields["primary_until"] = seen.primary_until
    if seen.began_there:
        fields["began"] = seen.began_there
    return fields


def split(keys: Sequence[str], patterns: Sequence[str], *, most_keys: int) -> Iterator[ScriptBody]:
    """Split a batch by keys and by bytes of JSON; the patterns come last."""
    for start in range(0, len(keys), most_keys):
        yield from _fitting(list(keys[start : start + most_keys]), as_patterns=False)
    if patterns:
        yield from _fitting(list(patterns), as_patterns=True)


def group_refreshes(
    keys: Sequence[str], renewals: Mapping[str, Renewal], names: Names
) -> tuple[list[str], dict[str, Any] | None]:
    """Order a script's keys, those to refresh last, and build the header's ``refresh``; None without any.

    ``keys`` and those of ``renewals`` are their names in Redis.
    """
    groups: dict[Renewal, list[str]] = {}
    ordered: list[str] = []
    for key in keys:
        renewal = renewals.get(key)
        if renewal is None:
            ordered.append(key)
        else:
            groups.setdefault(renewal, []).append(key)
    if not groups:
        return ordered, None
    ordered.append(names.refresh)
    described = []
    for renewal, members in groups.items():
        described.append(
            {
                "keys": len(members),
                "serve_ms": renewal.serve_ms,
                "due_ms": renewal.debounce_ms,
                "only_if_cached": renewal.only_if_cached,
                "spare_ms": renewal.spare_ms,
                "refreshed": renewal.refreshed,
            }
        )
        for key in members:
            ordered += [key, names.stale(key)]
            if renewal.spare_ms:
                ordered.append(names.spare(key))
    return ordered, {"most": MOST_WAITING, "groups": described}


def _fitting(items: list[str], *, as_patterns: bool) -> Iterator[ScriptBody]:
    encoded = key_list(items)
    if len(encoded) > BODY_BYTES and len(items) > 1:
        middle = len(items) // 2
        yield from _fitting(items[:middle], as_patterns=as_patterns)
        yield from _fitting(items[middle:], as_patterns=as_patterns)
    elif as_patterns:
        yield ScriptBody([], b"[]", encoded)
    else:
        yield ScriptBody(items, encoded, b"[]")


def always(kind: Kind) -> Callable[[ScriptBody], bytes]:
    """Return a reason without changes, for every script."""
    reason = simple_reason(kind)
    return lambda _: reason

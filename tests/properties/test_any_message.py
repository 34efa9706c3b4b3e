"""Whatever another process writes into channel, log or rules decodes, or is a `MessageError`."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstale.errors import MessageError
from unstale.protocol.messages import (
    Invalidation,
    PublishedRules,
    UnknownVersion,
    Watermark,
    decode,
    decode_log_entry,
)
from unstale.protocol.names import Epoch

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
SOUND: list[dict[str, Any]] = [
    {"v": 1, "epoch": "e1", "id": 8, "prev": 7, "keys": ["a"], "patterns": ["b:*"]},
    {"v": 1, "epoch": "e1", "last": 8, "seen": "5:9:6,7", "lsn": "0/1", "rules": "r", "age_ms": 1.5},
    {"v": 1, "hash": "h", "patterns": ["a:*"], "ttl": [["a:*", 5.0]]},
]
SNAPSHOTS = st.text(alphabet="0123456789:,-+ _٣", max_size=14)


@st.composite
def nearly_sound(draw: st.DrawFn) -> bytes:
    """A sound message with fields replaced, left out and added, and at times cut short or spliced."""
    message = dict(draw(st.sampled_from(SOUND)))
    for name in draw(st.lists(st.sampled_from(sorted(message)), max_size=3)):
        match draw(st.integers(0, 3)):
            case 0:
                message.pop(name, None)
            case 1:
                message[name] = draw(SNAPSHOTS)
            case _:
                message[name] = draw(JSON)
    message |= draw(st.dictionaries(st.text(max_size=5), JSON, max_size=2)) if draw(st.booleans()) else {}
    payload = orjson.dumps(message)
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(payload)))
        payload = payload[:at] + draw(st.binary(max_size=6)) + payload[at + draw(st.integers(0, 3)) :]
    return payload


@settings(max_examples=400, deadline=None)
@given(nearly_sound() | JSON.map(orjson.dumps) | st.binary(max_size=200))
def test_any_payload_is_a_message_or_an_error(payload: bytes) -> None:
    with contextlib.suppress(MessageError):
        message = decode(payload)
        assert isinstance(message, Invalidation | Watermark | UnknownVersion)
        if isinstance(message, Invalidation):
            # What the subscriber relies on, without looking again.
            assert 0 <= message.id < 2**53
            assert all(isinstance(item, str) for item in (*message.keys, *message.patterns))
        if isinstance(message, Watermark):
            assert message.age_ms >= 0
            assert 0 < message.seen.xmin <= message.seen.xmax


@settings(max_examples=200, deadline=None)
@given(nearly_sound() | JSON.map(orjson.dumps) | st.binary(max_size=200))
def test_any_rules_are_rules_or_an_error(payload: bytes) -> None:
    with contextlib.suppress(MessageError):
        rules = PublishedRules.decode(payload)
        rules.owns("user:1")
        seconds = rules.ttl_of("user:1")
        assert seconds is None or seconds > 0
        seconds = rules.refresh_of("user:1")
        assert seconds is None or seconds >= 0


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=80)
    | st.sampled_from([b'"keys":["a"],"patterns":[]', b'"keys":[', b'"keys":[]},{"keys":["b"]'])
    | nearly_sound().map(lambda payload: payload[1:-1])
)
def test_any_log_entry_is_an_invalidation_or_an_error(body: bytes) -> None:
    with contextlib.suppress(MessageError):
        entry = decode_log_entry(Epoch("e"), 5, body)
        assert (entry.id, entry.prev) == (5, 4)
        assert all(isinstance(item, str) for item in (*entry.keys, *entry.patterns))


@pytest.mark.parametrize("depth", [200, 5_000, 200_000])
def test_a_deeply_nested_message_overflows_nothing(depth: int) -> None:
    for payload in (b"[" * depth, b'{"a":' * depth, b'{"v":1,"epoch":' + b"[" * depth + b"]" * depth + b"}"):
        with pytest.raises(MessageError):
            decode(payload)

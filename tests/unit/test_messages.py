"""Messages: round trips, and rejection of invalid input from other processes."""

import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale.errors import MessageError
from unstale.protocol.messages import (
    Invalidation,
    PublishedRules,
    Snapshot,
    UnknownVersion,
    Watermark,
    decode,
    decode_log_entry,
    key_list,
)
from unstale.protocol.names import Epoch

INVALIDATION = {"v": 1, "epoch": "e1", "id": 8, "prev": 7, "keys": ["a"], "patterns": ["b:*"]}
WATERMARK = {"v": 1, "epoch": "e1", "last": 8, "seen": "5:9:6,7", "lsn": "0/1", "rules": "r", "age_ms": 1.5}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_an_invalidation() -> None:
    assert decode(orjson.dumps(INVALIDATION)) == Invalidation(Epoch("e1"), 8, 7, ("a",), ("b:*",))  # type: ignore[arg-type]  # NewType of int


def test_a_watermark() -> None:
    message = decode(orjson.dumps(WATERMARK))
    assert isinstance(message, Watermark)
    assert message.seen == Snapshot(5, 9, frozenset({6, 7}))
    assert (message.last, message.lsn, message.rules, message.age_ms) == (8, "0/1", "r", 1.5)


def test_unknown_fields_are_ignored() -> None:
    assert decode(orjson.dumps({**INVALIDATION, "later": {"x": 1}})) == decode(orjson.dumps(INVALIDATION))
    assert decode(orjson.dumps({**WATERMARK, "later": 1})) == decode(orjson.dumps(WATERMARK))


@pytest.mark.parametrize("version", [2, 0, "1", None, True, 1.5, [1]])
def test_another_version_is_recognised_whatever_else_it_holds(version: object) -> None:
    assert decode(orjson.dumps({"v": version, "nonsense": []})) == UnknownVersion(version)


@pytest.mark.parametrize("field", ["epoch", "prev"])
def test_an_invalidation_needs_its_fields(field: str) -> None:
    with pytest.raises(MessageError):
        decode(orjson.dumps({name: value for name, value in INVALIDATION.items() if name != field}))


@pytest.mark.parametrize("field", ["epoch", "last", "seen", "lsn", "rules", "age_ms"])
def test_a_watermark_needs_its_fields(field: str) -> None:
    with pytest.raises(MessageError):
        decode(orjson.dumps({name: value for name, value in WATERMARK.items() if name != field}))


@pytest.mark.parametrize(
    ("base", "field", "value"),
    [
        (INVALIDATION, "id", -1),
        (INVALIDATION, "id", 2**53),
        (INVALIDATION, "id", True),
        (INVALIDATION, "prev", "7"),
        (INVALIDATION, "keys", "a"),
        (INVALIDATION, "keys", [1]),
        (INVALIDATION, "epoch", "e" * 65),
        (WATERMARK, "age_ms", -0.1),
        (WATERMARK, "age_ms", "1"),
        (WATERMARK, "age_ms", True),
        (WATERMARK, "seen", "9:5:"),
        (WATERMARK, "seen", "5:9:9"),
        (WATERMARK, "seen", "5:9"),
        (WATERMARK, "last", 1.5),
    ],
)
def test_nonsense_is_refused(base: dict[str, object], field: str, value: object) -> None:
    with pytest.raises(MessageError):
        decode(orjson.dumps({**base, field: value}))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_an_error(payload: bytes) -> None:
    with contextlib.suppress(MessageError):  # any other exception fails the test
        decode(payload)


@given(st.lists(TEXT, max_size=5), st.lists(TEXT, max_size=5))
def test_what_the_scripts_splice_together_is_read_back(keys: list[str], patterns: list[str]) -> None:
    body = b'"keys":' + key_list(keys) + b',"patterns":' + key_list(patterns)
    entry = decode_log_entry(Epoch("e"), 5, body)
    assert (entry.keys, entry.patterns, entry.id, entry.prev) == (tuple(keys), tuple(patterns), 5, 4)


@given(st.integers(1, 50), st.integers(0, 20), st.sets(st.integers(0, 30)))
def test_a_snapshot_is_read_back_and_includes_what_it_says(low: int, width: int, gaps: set[int]) -> None:
    xip = frozenset(low + gap for gap in gaps if gap < width)
    snapshot = Snapshot(low, low + width, xip)
    assert Snapshot.parse(str(snapshot)) == snapshot
    for xid in range(low + width + 3):
        assert snapshot.includes(xid) == (xid < low + width and xid not in xip)


def test_rules_are_read_back_and_the_first_ttl_counts() -> None:
    rules = PublishedRules("h", ("user:*:profile",), (("user:1:*", 5.0), ("user:*", 9.0)))
    assert PublishedRules.decode(rules.encode()) == rules
    assert rules.owns("user:1:profile")
    assert not rules.owns("user:1:state")
    assert (rules.ttl_of("user:1:x"), rules.ttl_of("user:2:x"), rules.ttl_of("org:1")) == (5.0, 9.0, None)


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b'{"v":2}', b'{"v":1,"hash":"h","patterns":[],"ttl":[["a",0]]}',
     b'{"v":1,"hash":"h","patterns":[],"ttl":[["a"]]}', b'{"v":1,"hash":"h","patterns":[1],"ttl":[]}'],
)  # fmt: skip
def test_unreadable_rules_are_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        PublishedRules.decode(payload)

"""Reasons in the log: what is encoded is decoded, and anything else is refused without an error."""

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale.protocol.reasons import (
    LEFT_OUT,
    MAX_ANNOTATIONS_BYTES,
    OPERATIONS,
    Cause,
    Kind,
    Reason,
    changes_reason,
    decode_reason,
    simple_reason,
    table_code,
    table_number,
)

AT = (1_790_000_000_123).to_bytes(6, "big")
NOTES = st.none() | st.dictionaries(st.text(max_size=5), st.integers(-9, 9) | st.text(max_size=9), max_size=3)
CAUSES = st.lists(
    st.builds(Cause, st.integers(0, 65_535), st.sampled_from(list(OPERATIONS)), st.integers(0, 2**62), NOTES),
    min_size=1,
    max_size=40,
)


def encoded(causes: list[Cause], numbers: list[int] | None, read_ms: int = 1, gap_ms: int = 1) -> bytes:
    codes = [table_code(cause.table, cause.operation) for cause in causes]
    annotations = {
        number: cause.annotation for number, cause in enumerate(causes) if cause.annotation is not None
    }
    xids = [cause.xid for cause in causes]
    return AT + changes_reason(codes, xids, numbers, read_ms=read_ms, gap_ms=gap_ms, annotations=annotations)


@given(CAUSES, st.data(), st.integers(0, 2**42), st.integers(0, 2**40))
def test_changes_come_back(causes: list[Cause], data: st.DataObject, read_ms: int, gap_ms: int) -> None:
    numbers = data.draw(st.none() | st.lists(st.integers(0, len(causes) - 1), max_size=300))
    found = decode_reason(encoded(causes, numbers, read_ms, gap_ms))
    wanted = () if len(causes) == 1 else tuple(range(len(causes)) if numbers is None else numbers)
    assert found == Reason(Kind.CHANGES, 1_790_000_000_123, "", read_ms, gap_ms, tuple(causes), wanted)


def test_one_change_takes_24_bytes_and_a_thousand_take_less_than_one_for_each_key() -> None:
    one = encoded([Cause(40_000, "u", 123_456)], None, 1_790_000_000_123, 100)
    assert len(one) <= 24
    many = encoded([Cause(40_000, "u", 123_456 + number) for number in range(1_000)], None)
    assert len(many) < 100


def test_annotations_are_bounded_and_say_so() -> None:
    causes = [Cause(1, "u", number, {"text": "x" * 1_000}) for number in range(100)]
    found = decode_reason(encoded(causes, None))
    assert found is not None
    kept = [cause for cause in found.causes if cause.annotation != LEFT_OUT]
    assert len(kept) == MAX_ANNOTATIONS_BYTES // len('{"text":""}' + "x" * 1_000)
    assert found.causes[-1].annotation == LEFT_OUT


def test_kinds_of_agents_name_their_process() -> None:
    for kind in set(Kind) - {Kind.CHANGES}:
        assert decode_reason(AT + simple_reason(kind, "web-1:77")) == Reason(
            kind, 1_790_000_000_123, "web-1:77"
        )


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda data: AT + b"c" + data))
def test_any_bytes_are_a_reason_or_none(data: bytes) -> None:
    decode_reason(data)


@pytest.mark.parametrize(
    "data",
    [b"", AT, AT + b"?", AT + b"Cx", AT + b"c", AT + b"c" + b"\xff" * 40, AT + b"C" + zlib.compress(b"")],
)
def test_what_cannot_be_read_is_none(data: bytes) -> None:
    assert decode_reason(data) is None


def test_tables_have_different_numbers() -> None:
    tables: Any = [("public", f"table_{number}") for number in range(50)]
    assert len({table_number(*table) for table in tables}) == 50

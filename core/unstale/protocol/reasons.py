"""Why a log entry was written: kept beside the message in the log for people, never published. Pure.

A reason is 6 bytes for the time at which the entry was written, one letter for its kind, and what that kind
has to say. The script puts the time there: milliseconds since 1970 by the clock of Redis. Reasons of changes
are binary, and compressed if that makes them shorter. Agents do not read reasons.
"""

import binascii
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from operator import sub
from types import MappingProxyType
from typing import Final

import orjson


class Kind(StrEnum):
    """Kind of a reason; the value is its letter in the log."""

    CHANGES = "c"
    """The worker applied changes of the database."""
    CAPTURES = "m"
    """The worker invalidated the patterns of a table whose captures are missing."""
    RULES = "r"
    """The worker invalidated patterns once more after the rules had changed."""
    REPLAY = "a"
    """``unstale replay`` announced earlier changes again."""
    DELETE = "d"
    """A process called ``cache.delete``."""
    PATTERN = "p"
    """A process called ``cache.invalidate_pattern``."""
    SET = "s"
    """A process called ``cache.set``."""


OPERATIONS: Final = {"-": 0, "i": 1, "u": 2, "d": 3, "t": 4}
"""Operations of an outbox entry; ``-`` is DDL, or an entry of an earlier version's capture."""
OPERATION_NAMES: Final = {"i": "insert", "u": "update", "d": "delete", "t": "truncate", "-": "change"}
"""The same for people."""
PACKED: Final = "C"
"""The letter of `Kind.CHANGES` if the rest is compressed."""
COMPRESS_FROM: Final = 64
MAX_PROCESS_BYTES: Final = 40
MAX_ANNOTATIONS_BYTES: Final = 16_384
"""Bytes of annotations in one log entry; those beyond are left out, and say so."""
LEFT_OUT: Final = {"left out": "too many annotations in one batch"}

_LETTERS: Final = {number: letter for letter, number in OPERATIONS.items()}


@dataclass(frozen=True, slots=True)
class Cause:
    """One change among those of a log entry.

    Attributes:
        table: Number of its table; see `table_number`.
        operation: ``i``, ``u``, ``d`` or ``t``; ``-`` if the capture did not say.
        xid: The transaction.
        annotation: What ``unstale.because()`` was given in the transaction; None if it was not called.
    """

    table: int
    operation: str
    xid: int
    annotation: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one log entry was written.

    Attributes:
        kind: What happened.
        applied_ms: When, by the clock of Redis, in milliseconds since 1970.
        process: For the kinds of agents: host and process id.
        read_ms: For changes: when the read that found them began, by the same clock.
        gap_ms: For changes: milliseconds from the read before it, which had not found them.
        causes: For changes: each change once.
        numbers: The index in ``causes`` of each key of the entry; empty if the entry has patterns.
    """

    kind: Kind
    applied_ms: int
    process: str = ""
    read_ms: int = 0
    gap_ms: int = 0
    causes: tuple[Cause, ...] = ()
    numbers: tuple[int, ...] = ()


def table_number(schema: str, table: str) -> int:
    """Return 16 bits that stand for a table in the log, whatever rules or database come later.

    Two tables of one system rarely have the same number; then the key tells which one is meant.
    """
    return binascii.crc_hqx(f"{schema}.{table}".encode("utf-8", "replace"), 0)


def simple_reason(kind: Kind, process: str = "") -> bytes:
    """Encode a reason without changes."""
    return kind.value.encode() + process.encode("utf-8", "replace")[:MAX_PROCESS_BYTES]


def table_code(table: int, operation: str) -> int:
    """Return the number that stands for a table and an operation in the reason of changes."""
    return table * 8 + OPERATIONS.get(operation, 0)


def changes_reason(
    codes: Sequence[int],
    xids: Sequence[int],
    numbers: Sequence[int] | None,
    *,
    read_ms: int,
    gap_ms: int,
    annotations: Mapping[int, Mapping[str, object]] = MappingProxyType({}),
) -> bytes:
    """Encode the reason of changes. Called for each script of a batch, so it has no Python loop over changes.

    Args:
        codes: The `table_code` of each change; or one, if all have the same.
        xids: The transaction of each change.
        numbers: The index of its change for each key; None if each key has one of its own, in order.
        read_ms: When the read that found the changes began, by the clock of Redis.
        gap_ms: Milliseconds from the read before it; 0 if unknown.
        annotations: What ``unstale.because()`` was given, by index of the change.
    """
    kinds = list(dict.fromkeys(codes))
    body = _varints([max(0, read_ms), max(0, gap_ms), len(xids), len(kinds), *kinds, xids[0]])
    if len(kinds) > 1:
        places = {code: place for place, code in enumerate(kinds)}
        body += _packed([places[code] for code in codes])
    if len(xids) > 1:
        body += _packed(list(map(sub, xids[1:], xids)))
        body += b"\0" if numbers is None else _varints([len(numbers) + 1]) + _packed(_steps(numbers))
    body += _annotations(annotations)
    if len(body) >= COMPRESS_FROM:
        packed = zlib.compress(body, 1)
        if len(packed) < len(body):
            return PACKED.encode() + packed
    return Kind.CHANGES.value.encode() + body


def decode_reason(data: bytes) -> Reason | None:
    """Decode the field ``w`` of a log entry; None if it cannot be read, such as one of a later version."""
    try:
        applied, letter, body = int.from_bytes(data[:6], "big"), data[6:7].decode(), data[7:]
        if letter == PACKED:
            letter, body = Kind.CHANGES.value, zlib.decompress(body)
        kind = Kind(letter)
        if kind is Kind.CHANGES:
            return _changes(applied, body)
        return Reason(kind, applied, body.decode("utf-8", "replace"))
    except (ValueError, IndexError, KeyError, struct.error, zlib.error):
        return None


def cause_of(reason: Reason, keys: Sequence[str], key: str) -> Cause | None:
    """Return the change that invalidated ``key``, of an entry with these ``keys``; None if unknown."""
    if not reason.causes or key not in keys:
        return None
    if not reason.numbers:
        return reason.causes[0]
    try:
        return reason.causes[reason.numbers[keys.index(key)]]
    except IndexError:
        return None


def _changes(applied: int, body: bytes) -> Reason:
    reader = _Reader(body)
    read_ms, gap_ms, count, many = reader.varints(4)
    if count > len(body) or many > len(body):
        raise ValueError("more causes than bytes")
    kinds = reader.varints(many)
    (first,) = reader.varints(1)
    codes = [kinds[place] for place in reader.packed(count)] if many > 1 else kinds * count
    xids, numbers = [first], list[int]()
    if count > 1:
        xids = list(accumulate(reader.packed(count - 1), initial=first))
        (length,) = reader.varints(1)
        numbers = list(accumulate(reader.packed(length - 1))) if length else list(range(count))
    rest = reader.rest()
    notes: dict[str, dict[str, object]] = orjson.loads(rest) if rest else {}
    causes = tuple(
        Cause(code >> 3, _LETTERS[code & 7], xid, notes.get(str(number)))
        for number, (code, xid) in enumerate(zip(codes, xids, strict=True))
    )
    return Reason(Kind.CHANGES, applied, "", read_ms, gap_ms, causes, tuple(numbers))


def _annotations(given: Mapping[int, Mapping[str, object]]) -> bytes:
    notes: dict[str, Mapping[str, object]] = {}
    room = MAX_ANNOTATIONS_BYTES
    for number, annotation in given.items():
        room -= len(orjson.dumps(annotation))
        notes[str(number)] = annotation if room >= 0 else LEFT_OUT
    return orjson.dumps(notes) if notes else b""


def _varints(values: Sequence[int]) -> bytes:
    encoded = bytearray()
    for value in values:
        while value >= 128:
            encoded.append(value & 127 | 128)
            value >>= 7
        encoded.append(value)
    return bytes(encoded)


def _packed(values: Sequence[int]) -> bytes:
    """Encode many integers fast: a byte each if that is enough, else 8, which compress well."""
    try:
        return b"\1" + bytes(values)
    except ValueError:
        return b"\10" + struct.pack(f"<{len(values)}q", *values)


def _steps(values: Sequence[int]) -> list[int]:
    """Return the first value and the difference of each other one to the one before it."""
    return [*values[:1], *map(sub, values[1:], values)]


class _Reader:
    """Reads what `changes_reason` writes; raises IndexError or ValueError at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def varints(self, count: int) -> list[int]:
        found = []
        for _ in range(count):
            value = shift = 0
            while (byte := self._data[self._at]) >= 128:
                value |= (byte & 127) << shift
                shift += 7
                self._at += 1
            self._at += 1
            found.append(value | byte << shift)
        return found

    def packed(self, count: int) -> Sequence[int]:
        width = self._data[self._at]
        start, self._at = self._at + 1, self._at + 1 + count * width
        part = self._data[start : self._at]
        if width not in (1, 8) or len(part) < count * width:
            raise ValueError("fewer bytes than values")
        return part if width == 1 else struct.unpack(f"<{count}q", part)

    def rest(self) -> bytes:
        return self._data[self._at :]

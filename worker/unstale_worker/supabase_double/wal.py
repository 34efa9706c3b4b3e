"""Decode the messages of logical decoding (plugin pgoutput, protocol 1) into changes. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from unstale_worker.supabase_double.changes import Change

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Begin of the microseconds that Postgres counts."""
INTEGERS, FRACTIONS, BOOLEAN, JSON, ZONED, TIMESTAMP = (
    (20, 21, 23, 26),
    (700, 701, 1700),
    16,
    (114, 3802),
    1184,
    1114,
)


@dataclass(frozen=True, slots=True)
class _Relation:
    schema: str
    table: str
    columns: tuple[tuple[str, int, bool], ...]
    """Name, type's oid, and whether it belongs to the replica identity."""


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 1  # the first one is the kind

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=size == 8)

    def text(self) -> str:
        end = self._data.index(0, self._at)
        text = self._data[self._at : end].decode()
        self._at = end + 1
        return text


class Decoder:
    """Reads a slot's messages in order; remembers relations and the transaction at hand."""

    def __init__(self) -> None:
        self._relations: dict[int, _Relation] = {}
        self._committed: str | None = None

    def read(self, message: bytes) -> Change | None:
        """The change, or None for begin, commit and relations, and for TRUNCATE, which is never told."""
        kind, data = chr(message[0]), _Bytes(message)
        if kind == "B":
            data.number(8)
            moment = EPOCH + timedelta(microseconds=data.number(8))
            self._committed = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        elif kind == "R":
            oid, schema, table = data.number(4), data.text(), data.text()
            data.take(1)
            columns = []
            for _ in range(data.number(2)):
                key, name, type_oid = data.number(1) == 1, data.text(), data.number(4)
                data.take(4)
                columns.append((name, type_oid, key))
            self._relations[oid] = _Relation(schema, table, tuple(columns))
        elif kind in "IUD":
            return self._change(kind, self._relations[data.number(4)], data)
        return None

    def _change(self, kind: str, relation: _Relation, data: _Bytes) -> Change:
        old: dict[str, Any] = {}
        new: dict[str, Any] = {}
        part = data.take(1)
        if part in (b"K", b"O"):
            old = _row(relation, data, keys_only=part == b"K")
            part = data.take(1) if kind == "U" else b""
        if part == b"N":
            new = _row(relation, data)
        if kind == "U" and not old:  # the key did not change: it is the new one's
            old = {name: new[name] for name, _, key in relation.columns if key and name in new}
        return Change(
            relation.schema,
            relation.table,
            {"I": "INSERT", "U": "UPDATE", "D": "DELETE"}[kind],
            record=old | new if kind == "U" else new,
            old_record=old,
            commit_timestamp=self._committed,
        )


def _row(relation: _Relation, data: _Bytes, *, keys_only: bool = False) -> dict[str, Any]:
    row = {}
    count = data.number(2)
    for name, oid, key in relation.columns[:count]:
        kind = data.take(1)
        value = None
        if kind == b"t":
            value = _value(data.take(data.number(4)).decode(), oid)
        if kind != b"u" and (key or not keys_only):
            row[name] = value
    return row


def _value(text: str, oid: int) -> Any:
    if oid in INTEGERS:
        return int(text)
    if oid in FRACTIONS:
        return float(text) if text not in ("NaN", "Infinity", "-Infinity") else text
    if oid == BOOLEAN:
        return text == "t"
    if oid in JSON:
        return json.loads(text)
    if oid in (ZONED, TIMESTAMP):
        return (
            re.sub(r"([+-]\d\d)$", r"\1:00", text.replace(" ", "T", 1))
            if oid == ZONED
            else text.replace(" ", "T")
        )
    return text

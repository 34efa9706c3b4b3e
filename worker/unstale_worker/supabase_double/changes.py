"""A row's change as Realtime tells it, and which subscriptions it concerns."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

MOST_BYTES = 1024 * 1024
"""Of a change; of a larger one only short fields are told."""
SHORT_BYTES = 64


@dataclass(frozen=True, slots=True)
class Change:
    """One INSERT, UPDATE or DELETE."""

    schema: str
    table: str
    type: str
    record: Mapping[str, Any] = field(default_factory=dict)
    old_record: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[tuple[str, str], ...] = ()
    """Names and types."""
    commit_timestamp: str | None = None
    errors: tuple[str, ...] = ()

    @property
    def row(self) -> Mapping[str, Any]:
        """The values for filters: old and new together."""
        return {**self.old_record, **self.record}

    def only(self, names: set[str]) -> Change:
        """With these columns only."""
        return replace(
            self,
            record={name: value for name, value in self.record.items() if name in names},
            old_record={name: value for name, value in self.old_record.items() if name in names},
            columns=tuple(column for column in self.columns if column[0] in names),
        )

    def failed(self, error: str) -> Change:
        """The row of an error: no values, no time."""
        return Change(self.schema, self.table, self.type, errors=(error,))

    def shortened(self) -> Change:
        """As it is told when it is larger than `MOST_BYTES`; else unchanged."""
        if len(json.dumps(dict(self.row))) <= MOST_BYTES:
            return self

        def short(row: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in row.items() if len(json.dumps(value)) <= SHORT_BYTES}

        return replace(
            self,
            record=short(self.record),
            old_record=short(self.old_record),
            errors=("Error 413: Payload Too Large",),
        )

    def message(self) -> dict[str, Any]:
        """The ``data`` of the message."""
        data: dict[str, Any] = {
            "schema": self.schema,
            "table": self.table,
            "type": self.type,
            "commit_timestamp": self.commit_timestamp,
            "columns": [{"name": name, "type": kind} for name, kind in self.columns],
            "errors": list(self.errors) or None,
        }
        if self.type != "DELETE":
            data["record"] = dict(self.record)
        if self.type != "INSERT":
            data["old_record"] = dict(self.old_record)
        return data


@dataclass(frozen=True, slots=True)
class Binding:
    """One entry of a join's ``postgres_changes``."""

    asked: Mapping[str, Any]

    @property
    def id(self) -> int:
        """Stable for the same parameters, as the service's hash of them."""
        return zlib.crc32(json.dumps(dict(self.asked), sort_keys=True).encode()) % (1 << 27) or 1

    @property
    def schema(self) -> str:
        return str(self.asked.get("schema", "public"))

    @property
    def table(self) -> str | None:
        return self.asked.get("table")

    def concerns(self, change: Change) -> bool:
        """Return True if this subscription gets the change, rights aside."""
        return (
            self.asked.get("event", "*") in ("*", change.type)
            and self.schema in ("*", change.schema)
            and self.table in (None, "*", change.table)
            and all(
                _passes(part, change.row)
                for part in re.split(r",(?![^(]*\))", self.asked.get("filter") or "")
                if part
            )
        )


_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
}


def _passes(part: str, row: Mapping[str, Any]) -> bool:
    column, _, rest = part.partition("=")
    operator, _, wanted = rest.partition(".")
    if operator not in (*_COMPARED, "in"):
        raise ValueError(f"the double knows no filter {operator!r}")
    if column not in row:
        return False  # a DELETE tells the key only
    value = row[column]
    if operator == "in":
        return str(value) in [item.strip() for item in wanted.strip("()").split(",")]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _COMPARED[operator](str(value).lower() if isinstance(value, bool) else value, wanted)
    return _COMPARED[operator](value, float(wanted))

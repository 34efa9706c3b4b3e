"""Turn the types that databases and models return into plain JSON values."""

import dataclasses
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel, TypeAdapter

OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS
"""orjson itself leaves out the fields of a dataclass whose names begin with an underscore."""

_TEXTS: Final = (UUID, Decimal, PurePath, IPv4Address, IPv4Interface, IPv4Network, IPv6Address,
                 IPv6Interface, IPv6Network)  # fmt: skip
_duration: Final = TypeAdapter(timedelta)


def dumps(value: object, on_model: Callable[[BaseModel, object], object]) -> bytes:
    """Return the JSON of ``value``.

    ``on_model`` is called with each pydantic model in it, and with the plain values that stand for the model.
    Raises TypeError for a type that has no JSON form, and for NaN and infinities, which JSON does not have.
    """
    converted: list[object] = [value]

    def convert(item: object) -> object:
        plain = _plain(item)
        if isinstance(item, BaseModel):
            on_model(item, plain)
        converted.append(plain)
        return plain

    try:
        data = _dumps(value, convert)
    except TypeError as error:
        cause = error.__cause__
        raise (cause if isinstance(cause, TypeError) else error) from None
    if b"null" in data and any(map(_lacks_a_number, converted)):
        raise TypeError("it holds NaN or an infinity, which JSON does not have; use None instead")
    return data


def _dumps(value: object, convert: Callable[[object], object]) -> bytes:
    try:
        return orjson.dumps(value, default=convert, option=OPTIONS)
    except TypeError as error:
        if "tzinfo" not in str(error):  # orjson writes no time with a time zone, which is a `timetz`
            raise
    return orjson.dumps(value, default=convert, option=OPTIONS | orjson.OPT_PASSTHROUGH_DATETIME)


def _plain(value: object) -> object:
    """Return what stands for a value that orjson does not write itself; raises TypeError."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=False)  # decoded by the names of the fields, too
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, set | frozenset):
        return sorted(value, key=_order)  # the same text in each process
    if isinstance(value, _TEXTS):
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration.dump_python(value, mode="json")
    if isinstance(value, float):
        return float(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(
            f"{type(value).__name__} inside: write it as text, such as base64.b64encode(...).decode()"
        )
    if callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__"):
        return _row(value)
    raise TypeError(f"{type(value).__name__} inside")


def _row(row: Any) -> dict[str, object]:
    """Return a mapping, or a row of a database such as asyncpg's ``Record``, as a dict."""
    names = list(row.keys())
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise TypeError(f"a row with two columns {twice!r} inside: rename one of them with `as`")
    return {name: row[name] for name in names}


def _order(member: object) -> bytes:
    return orjson.dumps(member, default=_plain, option=OPTIONS)


def _lacks_a_number(value: object) -> bool:
    """Return True if a value holds NaN or an infinity, which orjson writes as null."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_lacks_a_number, value.values()))
    return isinstance(value, list | tuple) and any(map(_lacks_a_number, value))

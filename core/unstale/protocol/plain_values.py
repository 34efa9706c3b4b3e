"""Turn the types that databases and models return into plain JSON values."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter

OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS
"""orjson itself leaves out the fields of a dataclass whose names begin with an underscore."""

_TEXTS: Final = (UUID, Decimal, PurePath, IPv4Address, IPv4Interface, IPv4Network, IPv6Address,
                 IPv6Interface, IPv6Network)  # fmt: skip
_duration: Final = TypeAdapter(timedelta)


def dumps(
    value: object, on_model: Callable[[BaseModel, object], object], *, round_trip: bool = False
) -> bytes:
    """Return the JSON of ``value``.

    ``on_model`` is called with each pydantic model in it, and with the plain values that stand for the model.
    With ``round_trip`` models are written without computed fields, and their ``Json`` fields as text. Raises
    TypeError for a type that has no JSON form, and for NaN and infinities, which JSON does not have; it names
    the place inside ``value``.
    """
    try:
        return _written(value, on_model, round_trip)
    except TypeError as error:
        place = _unwritable(value)
        raise TypeError(f"{place}: {error}" if place else str(error)) from None


def _written(value: object, on_model: Callable[[BaseModel, object], object], round_trip: bool) -> bytes:
    converted: list[object] = [value]

    def convert(item: object) -> object:
        plain = _plain(item, round_trip=round_trip)
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


def _plain(value: object, *, round_trip: bool = False) -> object:
    """Return what stands for a value that orjson does not write itself; raises TypeError."""
    if isinstance(value, BaseModel):
        return _dumped(value, round_trip=round_trip)
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
    if isinstance(value, SecretStr | SecretBytes):
        raise TypeError(f"{type(value).__name__} inside: a secret is not stored; leave it out")
    if type(value).__module__.startswith("asyncpg") and hasattr(value, "lower_inc"):
        raise TypeError("a range inside: select lower(...) and upper(...) instead")
    if _is_row(value):
        return _row(value)
    raise TypeError(f"{type(value).__name__} inside")


def _dumped(value: BaseModel, *, round_trip: bool, include: set[str] | None = None) -> object:
    """Return a model as plain values; raises TypeError."""
    try:
        # By name, which readers find beside aliases. Without warnings: what is written is compared.
        return value.model_dump(
            mode="json", by_alias=False, warnings=False, round_trip=round_trip, include=include
        )
    except (ValueError, TypeError) as error:  # such as bytes that are not UTF-8; the text may hold the value
        raise TypeError(f"{type(value).__name__} inside ({type(error).__name__})") from None


def _row(row: Any) -> dict[str, object]:
    """Return a mapping, or a row of a database such as asyncpg's ``Record``, as a dict."""
    names = list(row.keys())
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise TypeError(f"a row with two columns {twice!r} inside: rename one of them with `as`")
    return {name: row[name] for name in names}


def _unwritable(value: object) -> str:
    """Return the place of the innermost part that cannot be written, such as ``.address[0]``; '' if none."""
    for step, part, plain in _parts(value):
        try:
            _written(plain(), lambda _model, _plain: None, False)
        except TypeError:
            return step + _unwritable(part)
    return ""


def _parts(value: object) -> Iterator[tuple[str, object, Callable[[], object]]]:
    """Yield the place of each part, the part if it can be looked into, and what is written for it."""
    if isinstance(value, BaseModel):
        for name in (*type(value).model_fields, *(value.model_extra or ())):
            part = getattr(value, name, None)
            inside = part if isinstance(part, BaseModel) else None
            yield f".{name}", inside, partial(_dumped, value, round_trip=False, include={name})
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            yield f".{field.name}", part, partial(_itself, part)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield f"[{name!r}]", part, partial(_itself, part)
    elif isinstance(value, list | tuple):
        for at, part in enumerate(value):
            yield f"[{at}]", part, partial(_itself, part)


def _itself(part: object) -> object:
    return part


def without_rows(value: object) -> object:
    """Return ``value`` with rows of a database as dicts, at the top or in a list."""
    if isinstance(value, list):
        return [without_rows(item) for item in value]
    if isinstance(value, dict | BaseModel) or dataclasses.is_dataclass(value):
        return value
    return _row(value) if _is_row(value) else value


def _is_row(value: Any) -> bool:
    return callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__")


def _order(member: object) -> bytes:
    return orjson.dumps(member, default=_plain, option=OPTIONS)


def _lacks_a_number(value: object) -> bool:
    """Return True if a value holds NaN or an infinity, which orjson writes as null."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_lacks_a_number, value.values()))
    return isinstance(value, list | tuple) and any(map(_lacks_a_number, value))

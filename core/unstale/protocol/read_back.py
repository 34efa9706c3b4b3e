"""Compare a value with what is read back from its JSON, by the types that its model declares."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import BaseModel, RootModel

from unstale.protocol.plain_values import dumps

_ANY: Final = (Any, object, dict, list)
"""Annotations that say nothing of what is inside: there, a value comes back as plain JSON."""

_SPECIAL: Final = (bool, Enum)
"""Types whose values are equal to those of others: True to 1, and a member of a ``str, Enum`` to its text."""

_APART: Final = ("metadata", "serialization", "default", "config")
"""Parts of a core schema that describe no value."""
_GENERATED: Final = dataclasses.make_dataclass("_", ()).__eq__.__code__.co_filename
"""File name in the code that `dataclasses` generates."""


def difference(value: object, back: object, hint: object) -> str | None:
    """Return the place where ``back`` differs from ``value``, such as ``.plan`` or ``[0].id``, or None.

    ``hint`` is the annotation of the value. Where it is Any, ``back`` is equal if it is the JSON of
    ``value``: a tuple has become a list there, and a date has become text. Each field is compared, whatever
    ``==`` of its class says. Private attributes of models do not count, as pydantic never writes them. The
    result names no value, since that may be personal.
    """
    hint = _of_value(without_extras(hint), value)
    if hint in _ANY or isinstance(hint, TypeVar):
        return None if same(value, back) or _is_json_of(value, back) else ""
    if isinstance(value, BaseModel):
        return _model(value, back)
    if dataclasses.is_dataclass(value):
        if type(value) is not type(back):
            return ""
        known = _hints(type(value))
        return _first(
            (f".{field.name}", getattr(value, field.name, None), getattr(back, field.name, None),
             known.get(field.name, Any))
            for field in dataclasses.fields(value)
        )  # fmt: skip
    if isinstance(value, dict) and isinstance(back, dict):
        if value.keys() != back.keys():
            return ""
        known, inner = _hints(hint), _argument(hint, -1)
        return _first((f"[{name!r}]", value[name], back[name], known.get(name, inner)) for name in value)
    if isinstance(value, list | tuple) and type(value) is type(back):
        other = typing.cast(tuple[object, ...], back)
        if len(value) != len(other):
            return ""
        one = not isinstance(value, tuple) or Ellipsis in typing.get_args(hint)
        return _first(
            (f"[{at}]", item, other[at], _argument(hint, 0 if one else at)) for at, item in enumerate(value)
        )
    return None if same(value, back) else ""


def equality_tells(schema: object) -> bool:
    """Return True if ``==`` of values of this core schema compares each field, so that it may be used first.

    Comparing field by field takes ten times as long. It is needed if a class has an ``__eq__`` of its own,
    if a dataclass excludes a field from it, or if a union has an Enum, whose members may equal their text.
    """
    if isinstance(schema, list | tuple):
        return all(map(equality_tells, schema))
    if not isinstance(schema, dict):
        return True
    cls, kind = schema.get("cls"), schema.get("type")
    if kind == "model" and cls.__eq__ not in (BaseModel.__eq__, RootModel.__eq__):
        return False
    if kind == "dataclass" and not (
        all(field.compare for field in dataclasses.fields(typing.cast(Any, cls)))
        and getattr(getattr(cls.__eq__, "__code__", None), "co_filename", "") == _GENERATED
    ):
        return False
    if kind == "union" and "'enum'" in repr(schema["choices"]):
        return False
    return all(equality_tells(part) for name, part in schema.items() if name not in _APART)


def _model(value: BaseModel, back: object) -> str | None:
    if type(value) is not type(back):
        return ""
    extra: Mapping[str, object] = value.model_extra or {}
    other: Mapping[str, object] = back.model_extra or {}
    if extra.keys() != other.keys():
        return ""
    fields = (
        (f".{name}", getattr(value, name, None), getattr(back, name, None), field.annotation)
        for name, field in type(value).model_fields.items()
    )
    return _first(fields) or _first((f".{name}", extra[name], other[name], Any) for name in extra)


def _first(parts: Iterable[tuple[str, object, object, object]]) -> str | None:
    """Return the place of the first part that differs."""
    for place, value, back, hint in parts:
        found = difference(value, back, hint)
        if found is not None:
            return place + found
    return None


def same(value: object, back: object) -> bool:
    """Return True if two values are equal, and both or neither is a bool or the member of an Enum."""
    try:
        equal = bool(value == back)
    except Exception:  # such as arrays, which compare each element
        return False
    return equal and isinstance(value, _SPECIAL) is isinstance(back, _SPECIAL)


def _is_json_of(value: object, back: object) -> bool:
    """Return True if ``back`` is the JSON of ``value``."""
    try:
        return same(orjson.loads(dumps(value, lambda _model, _plain: None)), back)
    except TypeError:  # it has none
        return False


def without_extras(hint: object) -> object:
    """Return the type inside ``Annotated`` and ``Optional``."""
    while True:
        origin = typing.get_origin(hint)
        if origin is Annotated:
            hint = typing.get_args(hint)[0]
        elif origin in (typing.Union, types.UnionType):
            kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
            if Any in kinds:
                return Any
            if len(kinds) != 1:
                return hint
            hint = kinds[0]
        else:
            return hint


def _of_value(hint: object, value: object) -> object:
    """Return the member of a union that ``value`` is of, by its outermost type."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    for kind in map(without_extras, typing.get_args(hint)):
        outermost = typing.get_origin(kind) or kind
        if isinstance(outermost, type) and isinstance(value, outermost):
            return kind
    return hint


def _argument(hint: object, at: int) -> object:
    """Return the annotation of an element; Any if the container's annotation says nothing of it."""
    arguments = typing.get_args(hint)
    try:
        return arguments[at] if arguments else Any
    except IndexError:
        return Any


def _hints(hint: object) -> dict[Any, object]:
    """Return the annotations of a dataclass or a TypedDict by field."""
    try:
        return dict(typing.get_type_hints(hint)) if isinstance(hint, type) else {}
    except Exception:  # a name that only type checkers import
        return {}

"""Compare a value with what is read back from its JSON, by the types that its model declares."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, TypeVar

import orjson
from pydantic import BaseModel

from unstale.protocol.plain_values import dumps

_ANY: Final = (Any, object, dict, list)
"""Annotations that say nothing of what is inside: there, a value comes back as plain JSON."""


def difference(value: object, back: object, hint: object) -> str | None:
    """Return the place where ``back`` differs from ``value``, such as ``.plan`` or ``[0].id``, or None.

    ``hint`` is the annotation of the value. Where it is Any, ``back`` is equal if it is the JSON of
    ``value``: a tuple has become a list there, and a date has become text. Private attributes of models do
    not count, as pydantic never writes them. The result names no value, since that may be personal.
    """
    hint = _without_extras(hint)
    if _equal(value, back):
        return None
    if hint in _ANY or isinstance(hint, TypeVar):
        return None if _equal(_as_json(value), back) else ""
    if type(value) is not type(back):
        return ""
    if isinstance(value, BaseModel):
        extra: Mapping[str, object] = value.model_extra or {}
        other: Mapping[str, object] = typing.cast(BaseModel, back).model_extra or {}
        if extra.keys() != other.keys():
            return ""
        annotations = {name: field.annotation for name, field in type(value).model_fields.items()}
        fields = ((f".{name}", getattr(value, name, None), getattr(back, name, None), annotation)
                  for name, annotation in annotations.items())  # fmt: skip
        return _first(fields) or _first((f".{name}", extra[name], other[name], Any) for name in extra)
    if dataclasses.is_dataclass(value):
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
    if isinstance(value, list | tuple) and isinstance(back, list | tuple):
        if len(value) != len(back):
            return ""
        one = not isinstance(value, tuple) or Ellipsis in typing.get_args(hint)
        return _first(
            (f"[{at}]", item, back[at], _argument(hint, 0 if one else at)) for at, item in enumerate(value)
        )
    return ""


def _first(parts: Iterable[tuple[str, object, object, object]]) -> str | None:
    """Return the place of the first part that differs."""
    for place, value, back, hint in parts:
        found = difference(value, back, hint)
        if found is not None:
            return place + found
    return None


def _equal(value: object, back: object) -> bool:
    try:
        return bool(value == back)
    except Exception:  # such as arrays, which compare each element
        return False


def _as_json(value: object) -> object:
    return orjson.loads(dumps(value, lambda _model, _plain: None))


def _without_extras(hint: object) -> object:
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

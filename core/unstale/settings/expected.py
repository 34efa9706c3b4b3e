"""The sentence for a setting with a value that it cannot have: its name, the value, and the bounds."""

import types
import typing
from collections.abc import Iterator
from typing import Any, Final, Literal

from pydantic import BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

LONGEST: Final = 60
"""Most characters of a value that are shown."""

_BOUNDS: Final = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "max_length": "at most"}
_KINDS: Final[dict[object, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    SecretStr: "a text",
}


def sentence(name: str, field: FieldInfo, value: object) -> str:
    """Return what is wrong with ``value`` of the setting ``name``, and what it may be; shows no secret."""
    parts = list(_parts(field.annotation, field.metadata))
    hidden = not field.repr or any(part is SecretStr for part in parts)
    shown = "cannot be used" if hidden else f"is {_shortened(value)}"
    default = "" if hidden or field.default is None else f": the default is {field.default}"
    return f"{name} {shown}; expected {_kind(parts)}{_bounds(parts)}. Correct it, or remove it{default}"


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _parts(annotation: Any, metadata: object = ()) -> Iterator[object]:
    """Yield the types and constraints of an annotation, also of those inside ``X | None``."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for each in typing.get_args(annotation):
            yield from _parts(each)
    elif origin is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        yield from _parts(inner, more)
    else:
        yield annotation
    for each in metadata if isinstance(metadata, list | tuple) else ():
        yield from each.metadata if isinstance(each, FieldInfo) else (each,)


def _kind(parts: list[object]) -> str:
    for part in parts:
        if typing.get_origin(part) is Literal:
            return "one of " + ", ".join(map(repr, typing.get_args(part)))
    if any(isinstance(part, BeforeValidator) for part in parts):
        return "seconds or a text such as '1h30m'"
    return next((_KINDS[part] for part in parts if isinstance(part, type) and part in _KINDS), "a text")


def _bounds(parts: list[object]) -> str:
    found = []
    for part in parts:
        for name, words in _BOUNDS.items():
            bound = getattr(part, name, None)
            if isinstance(bound, int | float):
                found.append(f"{words} {bound:,.12g}{' characters' if name == 'max_length' else ''}")
    return f", {' and '.join(found)}" if found else ""

"""Models that values are validated into: their adapters, and fingerprints of their schemas."""

import hashlib
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from unstale.protocol import plain_values
from unstale.protocol.read_back import difference, equality_tells, same, without_extras

Model: TypeAlias = type[Any] | TypeAdapter[Any]
"""Type that a value is validated into: a pydantic model, any other type pydantic knows, or an adapter."""

STAMP_BYTES: Final = 25
"""Length of a fingerprint: a tab, and 48 bits as white space, of which a byte holds two bits."""
REMEMBERED: Final = 1_024
"""Models whose adapter and fingerprint are remembered; an adapter made for each call would fill memory."""

_SILENT: Final = ("title", "description", "default", "examples", "deprecated")
"""Parts of a JSON schema that say nothing about stored values. A default may also differ by process."""
_DIGITS: Final = b" \t\n\r"

_adapters: dict[Any, TypeAdapter[Any]] = {}
_stamps: dict[Any, bytes] = {}
_equalities: dict[Any, bool] = {}


class OtherSchema(ValueError):
    """A value was stored with a model of another schema."""


def adapter(model: Model) -> TypeAdapter[Any]:
    """Return the adapter of a type."""
    if isinstance(model, TypeAdapter):
        return model
    found = _adapters.get(model)
    if found is None:
        _make_room(_adapters)
        found = _adapters[model] = TypeAdapter(model)
    return found


def validated(data: bytes, model: Model) -> Any:
    """Return the value of a JSON text; raises ValidationError. Fields are found by name or alias."""
    return adapter(model).validate_json(data, by_alias=True, by_name=True)


def dumps(value: object, on_model: Callable[[BaseModel, object], object], *, model: Model) -> bytes:
    """Return the JSON that ``model`` itself writes to be read again; raises TypeError or ValueError."""
    whole = adapter(model)
    plain = whole.dump_python(value, mode="json", by_alias=False, warnings=False, round_trip=True)
    return plain_values.dumps(plain, on_model)


def lost(value: object, back: object, model: Model) -> str | None:
    """Return the place in ``value`` that differs in ``back``, such as ``Profile.plan``, or None."""
    value, tells = plain_values.without_rows(value), _equality_tells(model)
    if tells and same(value, back):
        return None
    hint: object = getattr(model, "_type", Any) if isinstance(model, TypeAdapter) else model
    try:
        expected = _validated(value, model)
    except (ValueError, TypeError):  # a strict model takes the JSON of a value, but not the value
        return None
    if tells and same(expected, back):
        return None
    place = difference(expected, back, hint)
    if place is None or difference(value, back, hint) is None:  # validators may change a value again
        return None
    if expected is not value and difference(expected, _validated(value, model), hint) is not None:
        return None  # the model makes up a part each time: a default that is the time, or a random id
    return f"{getattr(hint, '__name__', hint)}{place}"


def _validated(value: object, model: Model) -> Any:
    if isinstance(model, type) and issubclass(model, BaseModel):
        return model.model_validate(value, by_alias=True, by_name=True)
    return adapter(model).validate_python(value, by_alias=True, by_name=True)


def _equality_tells(model: Model) -> bool:
    found = _equalities.get(model)
    if found is None:
        _make_room(_equalities)
        found = _equalities[model] = equality_tells(adapter(model).core_schema)
    return found


def stamp(model: Model) -> bytes:
    """Return the fingerprint of a model's schema, as white space that JSON parsers skip.

    It is computed once. It differs if a stored value could be read differently: fields, types, constraints,
    and what ``json_schema_extra`` adds. Titles, descriptions and defaults do not count, nor do aliases, as
    values are stored by the names of their fields.
    """
    found = _stamps.get(model)
    if found is None:
        _make_room(_stamps)
        found = _stamps[model] = _stamp(model)
    return found


def check_stamp(data: bytes, model: Model) -> None:
    """Raise `OtherSchema` if the fingerprint before the JSON is that of another schema."""
    if not data.startswith(stamp(model)) and not data[:STAMP_BYTES].strip():
        raise OtherSchema("stored with a model that had another schema")


def _stamp(model: Model) -> bytes:
    declared = getattr(model, "_type", Any) if isinstance(model, TypeAdapter) else model
    inner = without_extras(declared)  # None is stored alike for all
    whole = adapter(model if inner is declared else cast(type[Any], inner))
    schema = whole.json_schema(by_alias=False, schema_generator=_Schema)
    digest = hashlib.blake2b(orjson.dumps(_telling(schema), option=orjson.OPT_SORT_KEYS), digest_size=6)
    number = int.from_bytes(digest.digest(), "big")
    return b"\t" + bytes(_DIGITS[number >> shift & 3] for shift in range(46, -2, -2))


def _telling(schema: Any, *, names: bool = False) -> Any:
    """Return a schema without its silent parts; with ``names`` its keys are names of fields or models."""
    if isinstance(schema, dict):
        return {
            key: _telling(part, names=not names and key in ("properties", "$defs"))
            for key, part in schema.items()
            if names or key not in _SILENT
        }
    return [_telling(part) for part in schema] if isinstance(schema, list) else schema


class _Schema(GenerateJsonSchema):
    """Schemas of types that have no JSON schema, too, such as callables and arbitrary classes."""

    ignored_warning_kinds: Any = frozenset({"skipped-choice", "non-serializable-default"})

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        """Describe such a type by its kind; ``error_info`` may hold an address in memory."""
        return {"x-kind": schema["type"]}


def _make_room(known: dict[Any, Any]) -> None:
    if len(known) >= REMEMBERED:
        known.clear()

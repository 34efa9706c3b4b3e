"""Makes ``docs/messages.schema.json`` of the message dataclasses: ``python tests/contracts/schema.py``."""

import inspect
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Final, get_type_hints

import orjson

from unstale.protocol.messages import MAX_MESSAGE_BYTES, VERSION, Invalidation, Snapshot, Watermark
from unstale.protocol.names import Epoch, LogId

PAGE: Final = Path(__file__).parents[2] / "docs" / "messages.schema.json"

Schema = dict[str, object]

TYPES: Final[dict[object, Schema]] = {
    Epoch: {"type": "string", "maxLength": 64},
    LogId: {"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
    tuple[str, ...]: {"type": "array", "items": {"type": "string"}},
    Snapshot: {
        "type": "string",
        "pattern": r"^[0-9]+:[0-9]+:([0-9]+(,[0-9]+)*)?$",
        "maxLength": MAX_MESSAGE_BYTES,
    },
    float: {"type": "number", "minimum": 0, "exclusiveMaximum": 1e15},
}
STRINGS: Final[dict[str, int]] = {"lsn": 32, "rules": 128, "flushed": 32, "database": 64}
"""Most characters of the fields that are plain strings."""


def schema() -> Schema:
    """The schema of everything that is published on the channel."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "unstale messages",
        "description": f"What is published on the channel {{unstale:0}}:invalidations: JSON of at most "
        f"{MAX_MESSAGE_BYTES} bytes. Fields that are not listed are to be ignored. "
        f"Another v than {VERSION} means: drop the near cache and stay detached.",
        "oneOf": [described(Invalidation), described(Watermark)],
    }


def described(kind: type[Invalidation] | type[Watermark]) -> Schema:
    """One kind of message; a field's sentence is the one of its docstring."""
    text = inspect.getdoc(kind) or ""
    hints = get_type_hints(kind)
    properties: dict[str, Schema] = {"v": {"const": VERSION}}
    for field in fields(kind):
        bounds = TYPES.get(hints[field.name]) or {"type": "string", "maxLength": STRINGS[field.name]}
        properties[field.name] = {"description": sentence(text, field.name), **bounds}
    found: Schema = {
        "title": kind.__name__,
        "description": text.partition("\n\n")[0],
        "type": "object",
        "properties": properties,
        "required": ["v", *(field.name for field in fields(kind) if required(field))],
    }
    if kind is Watermark:
        found["not"] = {"required": ["id"]}
    return found


def required(field: "Field[object]") -> bool:
    """Whether the message is unreadable without it."""
    return field.default is MISSING and field.default_factory is MISSING


def sentence(text: str, name: str) -> str:
    """What the docstring's Attributes say about a field."""
    found = re.search(rf"^    {name}: (.+(?:\n        .+)*)", text, re.MULTILINE)
    assert found is not None, name
    return " ".join(found[1].split())


def written() -> bytes:
    """The file's content."""
    return orjson.dumps(schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    PAGE.write_bytes(written())

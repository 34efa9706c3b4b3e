"""The messages' JSON Schema is generated from the code, and `decode` draws the same line at every bound."""

import re
from collections.abc import Iterator
from typing import Any, cast

import orjson
import pytest

from contracts.schema import PAGE, described, written
from unstale.errors import MessageError
from unstale.protocol.messages import Invalidation, Watermark, decode

KINDS = {"invalidation": Invalidation, "watermark": Watermark}
VALID: dict[str, dict[str, Any]] = {
    "invalidation": {"v": 1, "epoch": "e", "id": 2, "prev": 1, "keys": ["a"], "patterns": []},
    "watermark": {"v": 1, "epoch": "e", "last": 2, "seen": "5:7:5,6", "lsn": "0/1", "rules": "r",
                  "age_ms": 1.5},
}  # fmt: skip


def test_the_file_is_what_the_code_says() -> None:
    assert PAGE.read_bytes() == written(), "run: python tests/contracts/schema.py"


def properties(kind: str) -> dict[str, dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], described(KINDS[kind])["properties"])


def variations() -> Iterator[Any]:
    """Each field at its bounds, beyond them, of another type, and absent; and whether that is a message."""
    for kind, message in VALID.items():
        required = cast(list[str], described(KINDS[kind])["required"])
        for name, bounds in properties(kind).items():
            if name == "v":
                continue
            absent = {key: value for key, value in message.items() if key != name}
            if name != "id":  # without an id it would be a watermark
                yield pytest.param(absent, name not in required, id=f"{kind}-{name}-absent")
            for what, value, right in values(bounds):
                yield pytest.param({**message, name: value}, right, id=f"{kind}-{name}-{what}")


def values(bounds: dict[str, Any]) -> Iterator[tuple[str, object, bool]]:
    yield "null", None, False
    yield "object", {}, False
    match bounds["type"]:
        case "integer":
            yield "least", bounds["minimum"], True
            yield "less", bounds["minimum"] - 1, False
            yield "most", bounds["maximum"], True
            yield "more", bounds["maximum"] + 1, False
            yield "text", "1", False
            yield "fraction", 1.5, False
            yield "bool", True, False
        case "number":
            yield "least", bounds["minimum"], True
            yield "less", -0.5, False
            yield "more", bounds["exclusiveMaximum"], False
            yield "text", "1", False
        case "array":
            yield "empty", [], True
            yield "text", "a", False
            yield "numbers", [1], False
        case "string" if "pattern" in bounds:
            assert re.search(bounds["pattern"], "5:7:5,6")
            for text in ("", "5", "5:7", "5:7:x", "5:7:5,", "a:b:"):
                assert not re.search(bounds["pattern"], text)
                yield repr(text), text, False
            yield "no xip", "5:7:", True
        case "string":
            yield "longest", "x" * bounds["maxLength"], True
            yield "longer", "x" * (bounds["maxLength"] + 1), False
            yield "number", 1, False


@pytest.mark.parametrize(("message", "right"), list(variations()))
def test_decode_and_schema_agree(message: dict[str, Any], right: bool) -> None:
    if right:
        decode(orjson.dumps(message))
    else:
        with pytest.raises(MessageError):
            decode(orjson.dumps(message))

"""Frames between a process that calls loaders and its parent: a JSON header, and a payload as it is."""

import json
import struct
from collections.abc import Mapping
from typing import Any, Final

SIZES: Final = struct.Struct(">II")
"""Bytes of the header and of the payload, before each frame."""


def frame(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """Encode one frame."""
    encoded = json.dumps(header).encode()  # escapes lone surrogates, which a loader's message may hold
    return SIZES.pack(len(encoded), len(payload)) + encoded + payload


def header_of(encoded: bytes) -> dict[str, Any]:
    """Decode a header; raises ValueError if foreign code has written into the pipe."""
    header = json.loads(encoded)
    if not isinstance(header, dict):
        raise ValueError("not a frame")
    return header

"""The wire format: Phoenix's serializers 1.0.0 (objects) and 2.0.0 (arrays, and binary user broadcasts)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

USER_BROADCAST_PUSH = 3
"""Kind of the binary frame in which a client of version 2 sends a broadcast."""
USER_BROADCAST = 4
"""Kind of the binary frame in which it gets one."""
AS_JSON = 1


class BadFrame(Exception):
    """Bytes that are no message; the service logs them and goes on."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. A broadcast's payload may hold bytes under ``payload``, from and to version 2 only."""

    topic: str
    event: str
    payload: Any
    ref: str | None = None
    join_ref: str | None = None


def read(data: str | bytes, *, version: int) -> Frame:
    """Read a frame of a client. Raises `BadFrame`."""
    if isinstance(data, bytes):
        if version < 2:
            raise BadFrame("version 1 has no binary frames")
        return _read_binary(data)
    try:
        message = json.loads(data)
        if version >= 2:
            join_ref, ref, topic, event, payload = message[:5]
        else:
            join_ref, ref = message.get("join_ref"), message.get("ref")
            topic, event, payload = message["topic"], message["event"], message["payload"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadFrame(repr(error)) from None
    if not isinstance(topic, str) or not isinstance(event, str):
        raise BadFrame("topic and event are texts")
    return Frame(topic, event, payload, ref=ref, join_ref=join_ref)


def _read_binary(data: bytes) -> Frame:
    if len(data) < 7 or data[0] != USER_BROADCAST_PUSH:
        raise BadFrame("unknown kind of binary frame")
    *sizes, encoding = data[1:7]
    texts, at = [], 7
    for size in sizes:
        texts.append(data[at : at + size])
        at += size
    try:
        join_ref, ref, topic, event, _ = (text.decode() for text in texts)
        body: Any = json.loads(data[at:]) if encoding == AS_JSON else data[at:]
    except ValueError as error:
        raise BadFrame(repr(error)) from None
    payload = {"type": "broadcast", "event": event, "payload": body}
    return Frame(topic, "broadcast", payload, ref=ref or None, join_ref=join_ref or None)


def write(frame: Frame, *, version: int) -> str | bytes | None:
    """Return the bytes for a client; None if its version cannot carry the frame, which is dropped."""
    body = frame.payload
    if frame.event == "broadcast" and version >= 2:
        return _write_binary(frame.topic, body)
    if isinstance(body, dict) and isinstance(body.get("payload"), bytes):
        return None
    if version >= 2:
        return json.dumps([frame.join_ref, frame.ref, frame.topic, frame.event, body])
    return json.dumps({"ref": frame.ref, "event": frame.event, "payload": body, "topic": frame.topic})


def _write_binary(topic: str, body: dict[str, Any]) -> bytes:
    content = body["payload"]
    as_json = not isinstance(content, bytes)
    names = [
        topic.encode(),
        body["event"].encode(),
        json.dumps(body["meta"]).encode() if "meta" in body else b"",
    ]
    head = bytes([USER_BROADCAST, *map(len, names), AS_JSON if as_json else 0])
    return head + b"".join(names) + (json.dumps(content).encode() if as_json else content)

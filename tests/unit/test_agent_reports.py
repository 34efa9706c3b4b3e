"""Reports of agents: bounded when they are written, and checked when they are read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from servers import eventually
from unstale.errors import MessageError
from unstale.freshness.heard import MOST_MARKS, Heard
from unstale.near_cache.tallies import MOST_SHAPES, OTHERS, Tallies, key_shape
from unstale.protocol.agent_reports import (
    MAX_REPORT_BYTES,
    AgentReport,
    Counted,
    Shape,
    decode_report,
    encode_report,
)
from unstale.protocol.names import LogId
from unstale.protocol.newest_fills import MOST_FILLS, NewestFills, key_number
from unstale.reporting.reporter import Reporter

REPORT = AgentReport(
    name="web", host="web-1", pid=77, version="0.1.0", rules="5e", epoch="9f", last=42, running=60.5,
    attached=3.25, staleness=0.31, near_entries=2, near_bytes=1_000,
    patterns={"user:*:profile": Counted(1, 2, 3, 4, 5, 6, 7, 8, 0.5, 0.25)},
    shapes={"user:*:profil": Shape(Counted(misses=1), "user:*:profile")},
    heard=[(41, 900), (42, 100)],
)  # fmt: skip


def test_a_report_is_read_as_it_was_written() -> None:
    fills = NewestFills()
    fills.add("user:1:profile", 1.0)
    fills.add("user:2:profile", 2.0)
    fills.add("user:1:profile", 3.0)
    found = decode_report(encode_report(REPORT, fills=fills.encode(now=4.5)))
    assert dict(found.fills) == {key_number("user:1:profile"): 1_500, key_number("user:2:profile"): 2_500}
    assert found == replace(REPORT, fills=found.fills)
    assert (found.counted.reads, found.counted.hits, found.counted.longest_load) == (11, 6, 0.25)
    detached = replace(REPORT, attached=None, staleness=None)
    assert decode_report(encode_report(detached, fills="")).attached is None


def test_a_report_that_is_too_long_leaves_out_what_is_needed_least() -> None:
    fills = NewestFills().encode(now=0.0)
    many = {f"user:*:{'x' * 400}{number}": Counted(1) for number in range(64)}
    long = replace(REPORT, patterns=many)
    encoded = encode_report(long, fills=fills)
    assert len(encoded) <= MAX_REPORT_BYTES
    found = decode_report(encoded)
    assert (len(found.patterns), found.name) == (64, "web")
    many = {f"user:*:{'x' * 500}{number}": Counted(1) for number in range(64)}
    long = replace(REPORT, patterns=many)
    assert (decode_report(encode_report(long, fills=fills)).patterns, found.last) == ({}, 42)


@pytest.mark.parametrize(
    "broken",
    [
        {"v": 2}, {"name": 7}, {"name": "x" * 600}, {"pid": -1}, {"pid": True}, {"last": 2**60},
        {"staleness": "0.1"}, {"staleness": -1}, {"patterns": {}}, {"patterns": [["a"]] * 100},
        {"patterns": [["a", *[0] * 8, "x", 0]]}, {"patterns": [7]}, {"shapes": [["a"]]},
        {"heard": [[1]]}, {"heard": [[1, -1]]}, {"fills": "%"}, {"fills": "AAAA"}, {"fills": 7},
    ],
)  # fmt: skip
def test_a_forged_report_is_refused_as_a_whole(broken: dict[str, Any]) -> None:
    data = orjson.loads(encode_report(REPORT, fills=""))
    with pytest.raises(MessageError):
        decode_report(orjson.dumps({**data, **broken}))


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b"{}", b"\xff", b'"' + b"x" * MAX_REPORT_BYTES + b'"']
)
def test_what_is_no_report_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        decode_report(payload)


def test_a_later_version_may_count_more() -> None:
    data = orjson.loads(encode_report(REPORT, fills=""))
    data["patterns"][0].append(9)
    data["more"] = "x"
    assert decode_report(orjson.dumps(data)).patterns == REPORT.patterns


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("user:42:profil", "user:*:profil"),
        ("session:6a0c1e1e-8a5d-4f5e-9a37-0a3b8c9d7e10", "session:*"),
        ("user:ada@example.com:profile", "user:*:profile"),
        ("a/b2/c|d", "a/*/c|d"),
        ("x" * 33, "*"),
        ("ключ:1", "*:*"),
        ("", ""),
    ],
)
def test_the_shape_of_a_key_leaves_out_what_tells_it_from_others(key: str, shape: str) -> None:
    assert key_shape(key) == shape


def test_shapes_fills_and_marks_are_bounded() -> None:
    tallies, fills, heard = Tallies(), NewestFills(), Heard()
    names = {tallies.of_shape(f"a{'b' * (number % 30)}:{'c' * (number // 30)}").name for number in range(200)}
    assert len(names) == MOST_SHAPES + 1
    assert OTHERS in names
    for number in range(1_000):
        fills.add(f"user:{number}", float(number))
        heard.note(LogId(number), number * 0.1)
    assert len(fills.encode(now=1_000.0)) <= MOST_FILLS * 8 * 4 / 3 + 4
    ages = heard.ages(now=100.0)
    assert len(ages) == MOST_MARKS
    assert ages[-1] == (999, 100)
    assert 18_000 < ages[0][1] - ages[-1][1] < 30_000  # two marks a second


class Counting(Reporter):
    """Counts reports instead of sending them."""

    sent = 0

    async def report(self) -> None:
        self.sent += 1


async def test_none_is_sent_while_the_log_is_not_subscribed_to() -> None:
    """Its failure would make the connection pause, and the replay after the outage be refused."""
    subscribed = True
    nothing: Any = None
    detached: Any = SimpleNamespace(attached=False)
    reporter = Counting(nothing, nothing, nothing, detached, subscribed=lambda: subscribed, interval=0.005)
    reporter.start()
    try:
        await eventually(lambda: reporter.sent > 1)
        subscribed = False
        await asyncio.sleep(0.01)
        before = reporter.sent
        await asyncio.sleep(0.1)
        assert reporter.sent == before
        subscribed = True
        await eventually(lambda: reporter.sent > before)
    finally:
        await reporter.close()

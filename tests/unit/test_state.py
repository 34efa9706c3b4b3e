"""Decisions from the state in Redis and from the first read."""

from dataclasses import replace

import pytest

from unstale.protocol.messages import lsn
from unstale_worker.redis.state import Adopting, Standing, StoredState, standing, standing_after_read
from unstale_worker.sources import Page

STATE = StoredState(
    live_run="r1",
    epoch="e" * 32,
    run="r1",
    position="10:12:10",
    database="7:1",
    flushed="0/100",
    fence="3",
    rules="h",
)
PAGE = Page(
    database="7:1",
    snapshot="12:13:",
    position="12:13:",
    more=False,
    cursor=None,
    lsn="0/200",
    flushed="0/1F0",
    covered=True,
    current_xmax=13,
    entries=(),
    began=0.0,
)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (STATE, Standing.READY),
        (replace(STATE, position=""), Standing.NO_POSITION),
        (replace(STATE, epoch=""), Standing.NO_POSITION),
        (replace(STATE, epoch='"}'), Standing.NO_POSITION),
        (replace(STATE, last="many"), Standing.NO_POSITION),
        (replace(STATE, last=str(2**53)), Standing.NO_POSITION),
        (replace(STATE, position="nonsense"), Standing.NO_POSITION),
        (replace(STATE, position="12:10:"), Standing.NO_POSITION),
        (replace(STATE, rules="other"), Standing.OTHER_RULES),
        (replace(STATE, live_run="r2"), Standing.OTHER_RUN),
        (replace(STATE, live_run="r2", position=""), Standing.NO_POSITION),
    ],
)
def test_what_redis_alone_says(state: StoredState, expected: Standing) -> None:
    assert standing(state, rules="h") is expected


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (PAGE, Standing.READY),
        (replace(PAGE, database="7:2"), Standing.OTHER_DATABASE),
        (replace(PAGE, database="8:1"), Standing.OTHER_DATABASE),
        (replace(PAGE, covered=False), Standing.PURGED),
        (replace(PAGE, current_xmax=11), Standing.WENT_BACK),
        (replace(PAGE, current_xmax=12), Standing.READY),
        (replace(PAGE, lsn="0/FF"), Standing.WENT_BACK),
        (replace(PAGE, lsn="0/100"), Standing.READY),
    ],
)
def test_what_the_first_read_adds(page: Page, expected: Standing) -> None:
    assert standing_after_read(STATE, page) is expected


def test_wal_positions_are_compared_as_numbers() -> None:
    assert lsn("1/0") > lsn("0/FFFFFFFF") > lsn("0/9") > lsn("") == 0


def test_unknown_fields_of_the_state_are_ignored() -> None:
    state = StoredState.read(b"run", [b"position", b"1:1:", b"something", b"new", b"last", b"4"])
    assert state == StoredState(live_run="run", position="1:1:", last="4")


def test_an_adoption_that_a_worker_of_the_version_before_has_ended_is_over() -> None:
    """Version 0.1.0 dropped everything and stored its rules, and left the field that it does not know."""
    left = Adopting("before", ("a:*",))
    under_way = replace(STATE, rules="adopting", adopting=left.encode())
    assert Adopting.read(under_way) == left
    assert Adopting.read(replace(under_way, rules="h")) == Adopting("h", ())
    assert Adopting.read(replace(under_way, adopting="{")) is None

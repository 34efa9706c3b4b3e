"""Freshness: what a watermark proves, and when nothing is proved any more."""

import math

import pytest

from unstale.freshness.tracker import Follower, Trust
from unstale.near_cache.local_state import NearTier
from unstale.protocol.messages import Snapshot, Watermark
from unstale.protocol.names import Epoch, LogId


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def near(clock: Clock) -> NearTier:
    return NearTier(max_entries=10, max_bytes=1_000, clock=clock)


@pytest.fixture
def follower(near: NearTier, clock: Clock) -> Follower:
    follower = Follower(near, clock=clock, max_silence=5.0, detached_ttl=30.0)
    follower.adopt(Epoch("e1"), LogId(3))
    return follower


def trust_of(follower: Follower) -> Trust:
    """As a call: a type checker believes that a property stays what an assertion said."""
    return follower.trust


def watermark(*, age: float = 0.0) -> Watermark:
    return Watermark(Epoch("e1"), LogId(3), Snapshot(9, 9), "0/1", "r", age * 1000)


def attach(follower: Follower) -> None:
    follower.pong(follower.ping())
    assert follower.watermark(watermark())


def test_a_process_that_was_never_attached_trusts_nothing(follower: Follower) -> None:
    assert trust_of(follower) is Trust.DETACHED
    assert follower.staleness == math.inf


def test_a_watermark_before_the_first_pong_proves_nothing(follower: Follower) -> None:
    follower.ping()
    assert not follower.watermark(watermark())
    assert trust_of(follower) is Trust.DETACHED
    assert follower.mark is None


def test_staleness_counts_from_the_ping_and_adds_the_age(follower: Follower, clock: Clock) -> None:
    number = follower.ping()
    clock.now += 0.25
    follower.pong(number)
    clock.now += 0.5
    follower.watermark(watermark(age=0.125))
    assert follower.staleness == pytest.approx(0.875)
    assert trust_of(follower) is Trust.ATTACHED


def test_an_old_watermark_read_late_is_not_taken_for_a_fresh_one(follower: Follower, clock: Clock) -> None:
    attach(follower)
    clock.now += 10  # the process was paused; then it reads what has lain in the socket
    assert trust_of(follower) is Trust.BRIEFLY_DETACHED
    follower.watermark(watermark())
    assert trust_of(follower) is Trust.BRIEFLY_DETACHED
    assert follower.staleness == math.inf


def test_a_late_pong_proves_no_more_than_its_ping(follower: Follower, clock: Clock) -> None:
    number = follower.ping()
    clock.now += 4
    follower.ping()
    follower.pong(number)
    follower.watermark(watermark())
    assert follower.staleness == pytest.approx(4.0)
    clock.now += 1
    assert trust_of(follower) is Trust.BRIEFLY_DETACHED


def test_a_slower_read_does_not_undo_what_a_faster_one_proved(follower: Follower) -> None:
    attach(follower)
    follower.watermark(watermark(age=3.0))
    assert follower.staleness == pytest.approx(0.0)


def test_silence_detaches_and_then_redis_is_not_trusted_either(follower: Follower, clock: Clock) -> None:
    attach(follower)
    clock.now += 4.9
    assert trust_of(follower) is Trust.ATTACHED
    clock.now += 0.1
    assert trust_of(follower) is Trust.BRIEFLY_DETACHED
    clock.now += 29.9
    assert trust_of(follower) is Trust.BRIEFLY_DETACHED
    clock.now += 0.2
    assert trust_of(follower) is Trust.DETACHED


def test_a_lost_connection_detaches_at_once_and_its_pongs_are_worth_nothing(follower: Follower) -> None:
    attach(follower)
    number = follower.ping()
    follower.connection_lost()
    assert trust_of(follower) is Trust.DETACHED  # who knows what the next server holds
    follower.recognize()
    assert trust_of(follower) is Trust.BRIEFLY_DETACHED
    follower.pong(number)
    assert not follower.watermark(watermark())


def test_a_connection_given_up_while_it_answered_is_no_reason_to_doubt_redis(follower: Follower) -> None:
    attach(follower)
    follower.connection_lost(answered=True)
    assert trust_of(follower) is Trust.BRIEFLY_DETACHED
    follower.doubt()
    assert trust_of(follower) is Trust.DETACHED


def test_another_epoch_takes_back_what_older_watermarks_said(follower: Follower, near: NearTier) -> None:
    attach(follower)
    near.followed.put("a", b"1", expires=9_999.0)
    follower.adopt(Epoch("e2"), LogId(1))
    assert len(near.followed) == 0
    assert follower.mark is None
    assert follower.staleness == math.inf
    assert trust_of(follower) is Trust.DETACHED
    follower.watermark(watermark())
    assert trust_of(follower) is Trust.ATTACHED


def test_own_loads_are_dropped_when_attached_again(follower: Follower, near: NearTier, clock: Clock) -> None:
    attach(follower)
    clock.now += 60
    near.adrift.put("a", b"1", expires=9_999.0)
    attach(follower)
    assert near.adrift.read("a") is None


def test_an_unknown_version_keeps_it_detached_until_it_is_silent(follower: Follower, clock: Clock) -> None:
    attach(follower)
    follower.mute()
    follower.pong(follower.ping())
    assert not follower.watermark(watermark())
    clock.now += 5
    attach(follower)
    assert trust_of(follower) is Trust.ATTACHED


def test_unanswered_pings_are_noticed(follower: Follower, clock: Clock) -> None:
    assert follower.unanswered == 0.0
    first = follower.ping()
    clock.now += 2
    second = follower.ping()
    assert follower.unanswered == pytest.approx(2.0)
    follower.pong(first)
    assert follower.unanswered == pytest.approx(0.0)
    clock.now += 1
    follower.pong(second)
    assert follower.unanswered == 0.0

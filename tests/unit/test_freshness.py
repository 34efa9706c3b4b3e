"""Freshness: what a watermark proves, and until when."""

import math

import pytest

from unstale.freshness.trust import Freshness, Trust
from unstale.near_cache.local_state import LocalState
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
def local(clock: Clock) -> LocalState:
    return LocalState(max_entries=10, max_bytes=1_000, clock=clock)


@pytest.fixture
def freshness(local: LocalState, clock: Clock) -> Freshness:
    freshness = Freshness(local, clock=clock, max_silence=5.0, detached_ttl=30.0)
    freshness.adopted(Epoch("e1"), LogId(3))
    return freshness


def trust_of(freshness: Freshness) -> Trust:
    """Read the property in a function, as type checkers assume that it keeps an asserted value."""
    return freshness.trust


def watermark(*, age: float = 0.0) -> Watermark:
    return Watermark(Epoch("e1"), LogId(3), Snapshot(9, 9), "0/1", "r", age * 1000)


def attach(freshness: Freshness) -> None:
    freshness.pong(freshness.ping())
    assert freshness.heard(watermark())


def test_a_process_that_was_never_attached_trusts_nothing(freshness: Freshness) -> None:
    assert trust_of(freshness) is Trust.DETACHED
    assert freshness.staleness == math.inf


def test_a_watermark_before_the_first_pong_proves_nothing(freshness: Freshness) -> None:
    freshness.ping()
    assert not freshness.heard(watermark())
    assert trust_of(freshness) is Trust.DETACHED
    assert freshness.watermark is None


def test_a_watermark_in_the_state_attaches_from_the_sending_of_the_replay(
    freshness: Freshness, clock: Clock
) -> None:
    sent, clock.now = clock.now, clock.now + 0.5
    assert freshness.shown(0.25, sent=sent, subscribed=sent - 1.0)
    assert freshness.staleness == pytest.approx(0.75)
    assert freshness.watermark is None
    assert freshness.trusted_until == pytest.approx(sent - 1.0 + 5.0)  # as the subscription proves no more


@pytest.mark.parametrize("age", [-0.1, 5.0, math.inf, -math.inf, math.nan])
def test_a_watermark_in_the_state_that_proves_no_living_worker_does_not_count(
    freshness: Freshness, clock: Clock, age: float
) -> None:
    freshness.proved(-math.inf)
    assert not freshness.shown(age, sent=clock.now, subscribed=clock.now)
    assert trust_of(freshness) is Trust.DETACHED


def test_a_replay_whose_answer_was_read_late_attaches_nothing(freshness: Freshness, clock: Clock) -> None:
    freshness.proved(-math.inf)
    sent, clock.now = clock.now, clock.now + 5.0
    assert not freshness.shown(0.0, sent=sent, subscribed=sent)
    assert trust_of(freshness) is Trust.DETACHED


def test_a_message_of_another_version_keeps_the_state_from_attaching(
    freshness: Freshness, clock: Clock
) -> None:
    freshness.muted()
    assert not freshness.shown(0.0, sent=clock.now, subscribed=clock.now)


def test_the_first_watermark_heard_corrects_what_the_clock_of_redis_said(
    freshness: Freshness, clock: Clock
) -> None:
    assert freshness.shown(0.0, sent=clock.now, subscribed=clock.now)
    freshness.pong(freshness.ping())
    freshness.heard(watermark(age=3.0))
    assert freshness.staleness == pytest.approx(3.0)
    freshness.heard(watermark(age=4.0))
    assert freshness.staleness == pytest.approx(3.0)


def test_staleness_counts_from_the_ping_and_adds_the_age(freshness: Freshness, clock: Clock) -> None:
    number = freshness.ping()
    clock.now += 0.25
    freshness.pong(number)
    clock.now += 0.5
    freshness.heard(watermark(age=0.125))
    assert freshness.staleness == pytest.approx(0.875)
    assert trust_of(freshness) is Trust.ATTACHED


def test_an_old_watermark_read_late_is_not_taken_for_a_fresh_one(freshness: Freshness, clock: Clock) -> None:
    attach(freshness)
    clock.now += 10  # the process was paused; then it reads what has lain in the socket
    assert trust_of(freshness) is Trust.BRIEFLY_DETACHED
    freshness.heard(watermark())
    assert trust_of(freshness) is Trust.BRIEFLY_DETACHED
    assert freshness.staleness == math.inf


def test_a_late_pong_proves_no_more_than_its_ping(freshness: Freshness, clock: Clock) -> None:
    number = freshness.ping()
    clock.now += 4
    freshness.ping()
    freshness.pong(number)
    freshness.heard(watermark())
    assert freshness.staleness == pytest.approx(4.0)
    clock.now += 1
    assert trust_of(freshness) is Trust.BRIEFLY_DETACHED


def test_a_slower_read_does_not_undo_what_a_faster_one_proved(freshness: Freshness) -> None:
    attach(freshness)
    freshness.heard(watermark(age=3.0))
    assert freshness.staleness == pytest.approx(0.0)


def test_silence_detaches_and_then_redis_is_not_trusted_either(freshness: Freshness, clock: Clock) -> None:
    attach(freshness)
    clock.now += 4.9
    assert trust_of(freshness) is Trust.ATTACHED
    clock.now += 0.1
    assert trust_of(freshness) is Trust.BRIEFLY_DETACHED
    clock.now += 29.9
    assert trust_of(freshness) is Trust.BRIEFLY_DETACHED
    clock.now += 0.2
    assert trust_of(freshness) is Trust.DETACHED


def test_a_lost_connection_detaches_at_once_and_its_pongs_are_worth_nothing(freshness: Freshness) -> None:
    attach(freshness)
    number = freshness.ping()
    freshness.lost()
    assert trust_of(freshness) is Trust.DETACHED  # who knows what the next server holds
    freshness.recognized()
    assert trust_of(freshness) is Trust.BRIEFLY_DETACHED
    freshness.pong(number)
    assert not freshness.heard(watermark())


def test_a_connection_given_up_while_it_answered_is_no_reason_to_doubt_redis(freshness: Freshness) -> None:
    attach(freshness)
    freshness.lost(answered=True)
    assert trust_of(freshness) is Trust.BRIEFLY_DETACHED
    freshness.doubted()
    assert trust_of(freshness) is Trust.DETACHED


def test_another_epoch_takes_back_what_older_watermarks_said(freshness: Freshness, local: LocalState) -> None:
    attach(freshness)
    local.near.put("a", b"1", expires=9_999.0)
    freshness.adopted(Epoch("e2"), LogId(1))
    assert len(local.near) == 0
    assert freshness.watermark is None
    assert freshness.staleness == math.inf
    assert trust_of(freshness) is Trust.DETACHED
    freshness.heard(watermark())
    assert trust_of(freshness) is Trust.ATTACHED


def test_own_loads_are_dropped_when_attached_again(
    freshness: Freshness, local: LocalState, clock: Clock
) -> None:
    attach(freshness)
    clock.now += 60
    local.offline.put("a", b"1", expires=9_999.0)
    attach(freshness)
    assert local.offline.read("a") is None


def test_an_unknown_version_keeps_it_detached_until_it_is_silent(freshness: Freshness, clock: Clock) -> None:
    attach(freshness)
    freshness.muted()
    freshness.pong(freshness.ping())
    assert not freshness.heard(watermark())
    clock.now += 5
    attach(freshness)
    assert trust_of(freshness) is Trust.ATTACHED


def test_unanswered_pings_are_noticed(freshness: Freshness, clock: Clock) -> None:
    assert freshness.unanswered == 0.0
    first = freshness.ping()
    clock.now += 2
    second = freshness.ping()
    assert freshness.unanswered == pytest.approx(2.0)
    freshness.pong(first)
    assert freshness.unanswered == pytest.approx(0.0)
    clock.now += 1
    freshness.pong(second)
    assert freshness.unanswered == 0.0


def test_a_repeated_watermark_proves_nothing_about_redis(freshness: Freshness, clock: Clock) -> None:
    """Redis' state says when the worker last published: what is heard later may be a repetition."""
    freshness.proved(-math.inf)
    freshness.proved(clock.now)
    freshness.proved(clock.now - 100.0)  # read by a slower connection: it takes nothing back
    attach(freshness)
    freshness.doubted()
    clock.now += 5.0
    freshness.pong(freshness.ping())
    assert not freshness.heard(watermark())
    assert trust_of(freshness) is Trust.DETACHED


def test_a_watermark_too_late_to_attach_keeps_own_loads(
    freshness: Freshness, local: LocalState, clock: Clock
) -> None:
    local.keep_offline(local.in_flight.open("a"), b"1", seconds=60.0)
    freshness.pong(freshness.ping())
    clock.now += 5.0
    assert freshness.heard(watermark())
    assert trust_of(freshness) is Trust.BRIEFLY_DETACHED
    assert local.offline.read("a") is not None


def test_the_pong_of_a_later_ping_still_counts(freshness: Freshness, clock: Clock) -> None:
    first = freshness.ping()
    clock.now += 1.0
    second = freshness.ping()
    freshness.pong(first)
    freshness.pong(second)
    assert freshness.heard(watermark())
    assert freshness.staleness == 0.0


def test_where_a_run_cannot_be_told_a_reconnect_waits_for_a_later_read(
    freshness: Freshness, clock: Clock
) -> None:
    """What was processed before may be lost there, and is applied again by a read that begins afterwards."""
    attach(freshness)
    freshness.lost()
    clock.now += 1.0
    freshness.connected(clock.now, doubtful=True)
    clock.now += 0.5
    freshness.pong(freshness.ping())
    assert not freshness.heard(watermark(age=0.6))
    assert trust_of(freshness) is Trust.DETACHED
    assert freshness.heard(watermark(age=0.4))
    assert trust_of(freshness) is Trust.ATTACHED

    freshness.lost()
    freshness.connected(clock.now, doubtful=False)
    freshness.pong(freshness.ping())
    assert freshness.heard(watermark(age=0.6))

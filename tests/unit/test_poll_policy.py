"""When the worker reads next."""

from itertools import pairwise

import pytest

from unstale_worker.leader.poll_policy import AWAKE_SECONDS, BUSY_PAUSE, PollPolicy


def paced(rate: int, *, seconds: float = 2.0) -> PollPolicy:
    policy = PollPolicy(poll_min=0.002, poll_max=0.25)
    for step in range(int(rate * seconds)):
        policy.note(1, now=step / rate)
    return policy


def test_pauses_double_while_nothing_is_found_and_begin_again_after_a_change() -> None:
    policy = PollPolicy(poll_min=0.002, poll_max=0.25)
    pauses = []
    for step in range(12):
        policy.note(0, now=float(step))
        pauses.append(policy.pause)
    assert pauses[0] == 0.004
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[-1] == 0.25
    policy.note(1, now=20.0)
    assert policy.pause == 0.002


def test_few_changes_are_waited_for_asleep_and_many_are_polled() -> None:
    assert paced(50).may_sleep
    assert not paced(50).must_wake
    assert not paced(1_000).may_sleep
    assert paced(1_000).must_wake


def test_a_rate_between_the_bounds_keeps_whatever_state_it_is_in() -> None:
    policy = paced(300)
    assert not policy.may_sleep
    assert not policy.must_wake


def test_commits_that_wait_for_each_other_keep_it_awake_for_a_while() -> None:
    policy = paced(50)
    policy.stay_awake()
    policy.note(1, now=2.0 + AWAKE_SECONDS / 2)
    assert not policy.may_sleep
    policy.note(1, now=2.0 + AWAKE_SECONDS)
    assert policy.may_sleep


def test_very_many_changes_are_read_in_larger_batches() -> None:
    assert paced(2_000).pause == 0.002
    assert 0.002 < paced(3_500).pause < BUSY_PAUSE
    assert paced(8_000).pause == pytest.approx(BUSY_PAUSE)


def longest_pause(policy: PollPolicy, cycles: int, *, took: float, entries: int = 2) -> float:
    """The longest pause after ``cycles`` cycles, one a second."""
    pauses = []
    for _ in range(cycles):
        policy.note(entries, now=policy._at + 1, took=took)
        pauses.append(policy.pause)
    return max(pauses)


@pytest.mark.parametrize("quick", [0.001, 0.030], ids=["near", "far"])
def test_cycles_that_take_longer_than_they_can_are_spaced_out(quick: float) -> None:
    policy = PollPolicy(poll_min=0.0005, poll_max=0.25)
    assert longest_pause(policy, 20, took=quick) == 0.0005
    assert longest_pause(policy, 20, took=quick + 0.0009) == 0.0005
    assert longest_pause(policy, 5, took=quick + 0.002, entries=100) == 0.0005  # many may take their time
    assert longest_pause(policy, 1, took=quick + 10) < 0.003  # one slow cycle
    longest_pause(policy, 20, took=quick)
    assert longest_pause(policy, 1, took=quick) == 0.0005
    assert 0.010 < longest_pause(policy, 40, took=quick + 0.005) < BUSY_PAUSE
    assert longest_pause(policy, 40, took=quick + 0.008) == BUSY_PAUSE


def test_an_empty_read_between_frequent_changes_makes_no_longer_pause() -> None:
    policy = paced(1_000)
    policy.note(0, now=2.0)
    assert policy.pause == 0.002
    policy.note(0, now=20.0)
    assert policy.pause > 0.002


def test_one_bulk_entry_does_not_count_as_a_busy_writer() -> None:
    policy = PollPolicy(poll_min=0.002, poll_max=0.25)
    policy.note(1, now=100.0)
    assert policy.may_sleep

"""The outbox feed: its effect on the caches of the process, with a clock that the test moves."""

import math

from unstale.freshness.published_rules import KnownRules
from unstale.freshness.trust import Freshness, Trust
from unstale.in_process.outbox_feed import OutboxFeed
from unstale.near_cache.local_state import LocalState
from unstale.protocol.messages import PublishedRules, Snapshot
from unstale.redis_tier.shared_tier import NoSharedTier

RULES = PublishedRules("hash", ("user:*:profile",), (("user:*:profile", 60.0),))


class Process:
    """The caches of one process, and a clock."""

    def __init__(self) -> None:
        self.now, self.told = 100.0, 0
        self.local = LocalState(max_entries=10, max_bytes=10_000, clock=self.clock)
        self.freshness = Freshness(self.local, clock=self.clock, max_silence=5.0, detached_ttl=30.0)
        self.rules = KnownRules(NoSharedTier(), default_ttl=10.0, jitter=0.0)
        self.feed = OutboxFeed(
            self.local, self.freshness, self.rules, clock=self.clock, on_reached=self.on_reached
        )

    def clock(self) -> float:
        return self.now

    def trust(self) -> Trust:
        return self.freshness.trust

    def on_reached(self) -> None:
        self.told += 1

    def reach(self, began: float) -> None:
        self.feed.reached(began, seen=Snapshot(7, 9), lsn="0/2", flushed="0/1", database="1:1")


def test_nothing_is_trusted_before_the_first_read_was_applied() -> None:
    process = Process()
    process.feed.restart(RULES)
    assert process.trust() is Trust.DETACHED
    process.reach(began=99.0)
    assert process.trust() is Trust.ATTACHED
    assert process.freshness.staleness == 1.0
    assert process.told == 1


def test_a_restart_forgets_everything_and_soils_what_is_in_flight() -> None:
    process = Process()
    process.feed.restart(RULES)
    process.reach(began=100.0)
    epoch, mark = process.freshness.epoch, process.local.in_flight.open("user:1:profile")
    process.local.near.put("user:1:profile", b"1", expires=200.0)
    process.feed.restart(RULES)
    assert not mark.valid
    assert len(process.local.near) == 0
    assert process.freshness.epoch != epoch
    assert process.trust() is not Trust.ATTACHED
    assert process.freshness.watermark is None


def test_what_was_read_long_ago_is_trusted_no_longer_than_that() -> None:
    """The process was paused between the read and now."""
    process = Process()
    process.feed.restart(RULES)
    process.reach(began=95.5)
    assert (process.freshness.trust, process.freshness.staleness) == (Trust.ATTACHED, 4.5)
    process.now = 100.6
    assert process.trust() is not Trust.ATTACHED
    assert process.freshness.staleness == math.inf


def test_drops_reach_both_kinds_of_copies_and_count() -> None:
    process = Process()
    process.feed.restart(RULES)
    process.local.offline.put("user:1:profile", b"1", expires=200.0)
    process.local.offline.put("user:2:profile", b"1", expires=200.0)
    process.feed.drop(["user:1:profile"], ["user:2:*"])
    assert len(process.local.offline) == 0
    assert process.freshness.last == 1


def test_copies_made_adrift_end_when_the_caches_are_fed_again() -> None:
    process = Process()
    process.feed.restart(RULES)
    process.local.offline.put("user:1:profile", b"1", expires=200.0)
    process.reach(began=100.0)
    assert len(process.local.offline) == 0


def test_the_rules_are_known_and_a_token_can_be_held_against_the_mark() -> None:
    process = Process()
    process.feed.restart(RULES)
    process.reach(began=100.0)
    assert process.rules.owns("user:1:profile")
    assert process.rules.ttl("user:1:profile") == 60.0
    mark = process.freshness.watermark
    assert mark is not None
    assert (mark.seen, mark.lsn, mark.flushed, mark.database) == (Snapshot(7, 9), "0/2", "0/1", "1:1")


def test_a_lost_position_takes_the_trust_away_at_once() -> None:
    process = Process()
    process.feed.restart(RULES)
    process.reach(began=100.0)
    process.local.near.put("user:1:profile", b"1", expires=200.0)
    process.feed.lost()
    assert process.trust() is not Trust.ATTACHED
    assert len(process.local.near) == 0

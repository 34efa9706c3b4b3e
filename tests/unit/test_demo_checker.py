"""The demo's checker: it decides which values an agent may show from what it has received, and when."""

from __future__ import annotations

from unstale import Invalidated
from unstale_worker.demo.read_checker import PAST, ReadChecker


def told(checker: ReadChecker, *keys: str, at: float) -> None:
    checker.process(Invalidated(keys=keys, patterns=(), staleness=0.1), at=at)


def test_older_than_what_was_heard_of_is_stale() -> None:
    checker = ReadChecker()
    told(checker, "user:1:profile", "trace:profile:1:7", "trace:profile:1:5", at=10.0)
    assert checker.floors(("profile:1", "profile:2")) == {"profile:1": 7, "profile:2": 0}
    floors = checker.floors(("profile:1",))

    checker.check("user:1:profile", {"profile:1": 7}, floors)
    assert (checker.stale_reads, checker.complaint) == (0, "")
    checker.check("user:1:profile", {"profile:1": 6}, floors)
    assert checker.stale_reads == 1
    assert "user:1:profile was read with version 6" in checker.complaint

    heard, recent = checker.take()
    assert [(each.source, each.version) for each in heard] == [("profile:1", 5), ("profile:1", 7)]
    assert recent == ("user:1:profile",)
    assert checker.invalidations == 1


def test_a_value_that_may_be_served_stale_has_its_bound() -> None:
    checker = ReadChecker()
    told(checker, "trace:memories:1:7", at=10.0)
    told(checker, "trace:memories:1:9", at=35.0)

    assert checker.floors_at(("memories:1",), at=9.9) == {"memories:1": 0}
    assert checker.floors_at(("memories:1",), at=10.0) == {"memories:1": 7}
    assert checker.floors_at(("memories:1",), at=34.9) == {"memories:1": 7}
    assert checker.floors_at(("memories:1", "memories:2"), at=35.0) == {"memories:1": 9, "memories:2": 0}


def test_a_version_is_heard_of_once_and_the_past_is_bounded() -> None:
    checker = ReadChecker()
    for version in range(1, 3 * PAST):
        told(checker, f"trace:state:1:{version}", at=float(version))
        told(checker, f"trace:state:1:{version}", at=float(version) + 0.5)
    assert checker.floors_at(("state:1",), at=1e9) == {"state:1": 3 * PAST - 1}
    assert checker.floors_at(("state:1",), at=1.0) == {"state:1": 0}
    heard, _ = checker.take()
    assert len(heard) == 3 * PAST - 1


def test_a_plans_traces_only_forbid_older_values() -> None:
    """The writer reports the change of an organization as a single change."""
    checker = ReadChecker()
    told(checker, "trace:plan:1:4", "trace:plan:2:4", "trace:organization:9:4", at=1.0)

    heard, _ = checker.take()

    assert [each.source for each in heard] == ["organization:9"]
    assert checker.floors(("plan:1", "plan:2")) == {"plan:1": 4, "plan:2": 4}

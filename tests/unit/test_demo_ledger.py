"""The demo's numbers: latency to the last agent, stale and late reads, rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale_worker.demo.figures import percentile
from unstale_worker.demo.ledger import CHECK_AFTER, GIVE_UP, Ledger
from unstale_worker.demo.reports import (
    AgentReport,
    Commit,
    Heard,
    ModelReport,
    Report,
    Sample,
    WorkerReport,
    World,
    WriterReport,
    decode,
    encode,
)


def agent(
    name: str,
    *,
    heard: tuple[Heard, ...] = (),
    samples: tuple[Sample, ...] = (),
    reads: int = 100,
    stale_reads: int = 0,
    complaint: str = "",
) -> AgentReport:
    return AgentReport(
        name=name, reads=reads, near_hits=70, redis_hits=20, loads=10, stale_reads=stale_reads,
        invalidations=3, staleness=0.2, attached=True, heard=heard, samples=samples,
        recent=("user:1:profile",), complaint=complaint,
    )  # fmt: skip


def committed(*commits: Commit) -> WriterReport:
    return WriterReport(commits, unwatched=1, rollbacks=2)


def test_latency_lasts_until_the_last_agent_has_heard() -> None:
    ledger = Ledger(agents=2)
    ledger.receive(committed(Commit("profile:1", 7, at=10.0)), now=10.1)
    ledger.receive(agent("a", heard=(Heard("profile:1", 7, at=10.002),)), now=10.2)
    assert ledger.figures(now=10.2).p50 is None

    ledger.receive(agent("b", heard=(Heard("profile:1", 7, at=10.005),)), now=10.2)

    assert ledger.figures(now=10.2).p50 == pytest.approx(5.0)
    assert ledger.outstanding == 0


def test_an_agent_may_hear_before_the_writer_is_answered() -> None:
    ledger = Ledger(agents=1)
    ledger.receive(agent("a", heard=(Heard("profile:1", 7, at=9.999),)), now=10.0)
    ledger.receive(committed(Commit("profile:1", 7, at=10.0)), now=10.1)

    assert ledger.figures(now=10.1).p50 == 0.0


def test_a_change_nobody_hears_of_is_counted_after_a_while() -> None:
    ledger = Ledger(agents=1)
    ledger.receive(committed(Commit("profile:1", 7, at=10.0)), now=10.0)
    ledger.receive(committed(), now=10.0 + GIVE_UP / 2)
    assert (ledger.figures(now=11.0).unconfirmed, ledger.outstanding) == (0, 1)

    ledger.receive(committed(), now=10.0 + GIVE_UP)

    assert (ledger.figures(now=11.0).unconfirmed, ledger.outstanding) == (1, 0)


def test_the_version_a_row_began_with_is_no_change() -> None:
    """An invalidation also names the old row, which is never reported as committed."""
    ledger = Ledger(agents=1)
    ledger.receive(
        agent("a", heard=(Heard("profile:1", 6, at=10.0), Heard("profile:1", 7, at=10.0))), now=10.0
    )
    assert ledger.outstanding == 0

    ledger.receive(committed(Commit("profile:1", 7, at=9.9)), now=10.1)

    assert (ledger.outstanding, ledger.figures(now=10.1).outstanding) == (0, 0)
    assert ledger.figures(now=10.1).p50 == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("version", "before", "late"),
    [
        (7, 10.5, 1),  # version 8 was committed at 10.2, before what staleness allowed to miss
        (7, 10.1, 0),  # it was committed later
        (8, 10.5, 0),  # it was in the value
    ],
)
def test_a_read_older_than_the_claimed_staleness_is_late(version: int, before: float, late: int) -> None:
    ledger = Ledger(agents=1)
    ledger.receive(agent("a", samples=(Sample("profile:1", version, before),)), now=11.0)
    # The writer's report may come after the read's: a sample is judged later.
    ledger.receive(committed(Commit("profile:1", 8, at=10.2)), now=11.1)
    assert ledger.figures(now=11.1).late_reads == 0

    figures = ledger.figures(now=11.0 + CHECK_AFTER)

    assert figures.late_reads == late
    assert figures.consistent is (late == 0)
    assert bool(figures.complaint) is bool(late)


def test_finishing_judges_the_newest_samples_too() -> None:
    ledger = Ledger(agents=1)
    ledger.receive(committed(Commit("profile:1", 8, at=10.2)), now=10.3)
    ledger.receive(agent("a", samples=(Sample("profile:1", 7, 10.5),)), now=11.0)

    ledger.finish()

    assert ledger.figures(now=11.0).late_reads == 1


def test_totals_are_of_all_agents_and_stale_reads_spoil_it() -> None:
    ledger = Ledger(agents=2)
    ledger.receive(agent("a"), now=1.0)
    assert ledger.figures(now=1.0).consistent
    ledger.receive(agent("b", stale_reads=2, complaint="user:1:profile was old"), now=1.0)

    figures = ledger.figures(now=1.0)

    assert (figures.reads, figures.stale_reads, figures.invalidations) == (200, 2, 3)
    assert (figures.hit_rate, figures.near_hit_rate) == pytest.approx((0.9, 0.7))
    assert not figures.consistent
    assert figures.complaint == "b: user:1:profile was old"
    assert ledger.news() == ("user:1:profile",)  # as one agent heard it


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_smallest_value_that_share_does_not_exceed(
    values: list[float], share: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)

    assert found is not None
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered) * (1 - 1e-9)
    assert sum(value < found for value in ordered) < share * len(ordered) * (1 + 1e-9)


@pytest.mark.parametrize(
    "report",
    [
        committed(Commit("profile:1", 7, at=1.5)),
        agent("a", heard=(Heard("profile:1", 7, at=1.5),), samples=(Sample("profile:1", 7, before=1.25),)),
        WorkerReport("leading", 0.1, True, 1, 2, 3, 4, 0, ""),
        ModelReport("http://127.0.0.1:1/v1"),
    ],
)
def test_reports_cross_the_pipe_unchanged(report: Report) -> None:
    line = encode(report)

    assert line.count(b"\n") == 1
    received = decode(line)
    assert type(received) is type(report)
    assert encode(received) == line


def test_the_world_crosses_the_environment_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(users=10, organizations=3, rate=12.5, seed=9)
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)

    assert World.from_environment() == world

"""The checker passes what is allowed and catches what is not, one sentence of the promises at a time."""

import math

import pytest

from history import (
    Checker,
    Confirmed,
    Final,
    Heard,
    Limits,
    Opened,
    Read,
    Record,
    Reset,
    Sample,
    State,
    Verdict,
    Writes,
    decode,
    encode,
)

ROW = "item:5"
WRITES = Writes(
    {
        ROW: [
            State(1, True, 0.0, 0.0),
            State(4, True, 10.0, 10.1),
            State(7, False, 20.0, 20.1),
            State(9, True, 30.0, 30.1),
        ]
    }
)


def read(
    version: int | None,
    began: float,
    *,
    notices: int = 0,
    staleness: float | None = 0.5,
    bound: float | None = None,
    took: float = 0.01,
) -> Read:
    return Read(
        key="item:5",
        began=began,
        ended=began + took,
        notices=notices,
        staleness=staleness,
        staleness_after=staleness,
        attached=staleness is not None,
        bound=bound,
        seen=((ROW, version),),
    )


def judged(*records: Record, limits: Limits | None = None) -> Verdict:
    checker = Checker(WRITES, limits)
    checker.judge("agent", records)
    return checker.verdict


def heard(at: float, version: int) -> Heard:
    return Heard(at, ((ROW, version),))


HEARD = heard(10.2, 4)


@pytest.mark.parametrize(
    "records",
    [
        [read(1, 5.0)],
        [read(1, 10.3)],  # replaced 0.2 s ago, and 0.5 s are allowed
        [read(4, 10.3), HEARD, read(4, 11.0, notices=1)],
        [HEARD, read(1, 10.3, notices=0)],  # it began before that was processed
        [read(4, 10.05)],  # committed between 10.0 and 10.1
        [read(None, 25.0), read(9, 30.2), read(None, 30.2)],
        [read(4, 20.4), read(4, 50.0, staleness=None)],
    ],
)
def test_what_is_allowed(records: list[Record]) -> None:
    verdict = judged(*records)
    assert verdict.true, verdict.complaints
    assert verdict.reads


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("older", [HEARD, read(1, 10.3, notices=1)]),
        ("older", [Confirmed(10.2, ((ROW, 4),)), read(1, 10.3, notices=1)]),
        ("older", [heard(10.2, 4), heard(30.2, 9), read(None, 30.3, notices=2)]),
        ("late", [read(1, 10.7)]),
        ("late", [read(4, 20.7)]),
        ("late", [read(None, 30.7)]),
        ("late", [read(1, 10.2, bound=0.0)]),
        ("late", [read(1, 10.2, staleness=None, bound=0.0)]),
        ("unreal", [read(5, 15.0)]),  # rolled back
        ("unreal", [read(7, 25.0)]),  # the version of a deletion
        ("unreal", [read(4, 9.0)]),  # not yet
        ("unreal", [read(None, 15.0)]),  # never absent until then
    ],
)
def test_a_read_that_breaks_a_promise(kind: str, records: list[Record]) -> None:
    verdict = judged(*records)
    assert verdict.stale == {kind: 1}
    assert verdict.complaints
    assert not verdict.true


STALE = Limits(serve_stale={"item:5": 2.0}.__getitem__)


@pytest.mark.parametrize(
    "records",
    [
        [HEARD, read(1, 12.1, notices=1)],  # announced at 10.2
        [HEARD, heard(11.0, 4), read(1, 12.1, notices=2)],
        [Opened(1.0), Reset(10.3), read(1, 12.2)],
        [Opened(10.5), read(1, 12.4)],
        # The connection was lost before the change was applied: its announcement is what counts.
        [Opened(1.0), Reset(10.3), heard(11.5, 4), read(1, 13.4, notices=2)],
        [Opened(10.3), heard(11.5, 4), read(1, 13.4, notices=1)],
        [HEARD, heard(20.2, 4), read(4, 22.1, notices=2)],  # a deletion is announced by its old state
    ],
)
def test_a_key_that_is_served_stale_may_show_what_was_true_until_the_change(records: list[Record]) -> None:
    verdict = judged(*records, limits=STALE)
    assert verdict.true, verdict.complaints
    assert verdict.served_stale == 1
    assert judged(*records).stale  # without that rule


@pytest.mark.parametrize(
    "records",
    [
        [HEARD, read(1, 12.3, notices=1)],  # too late, counted from the first announcement
        [HEARD, heard(12.2, 4), read(1, 12.3, notices=2)],
        [HEARD, read(1, 10.7, notices=1, bound=0.3)],
        [HEARD, read(1, 10.7, notices=1, staleness=None)],
        [HEARD, Confirmed(10.3, ((ROW, 4),)), read(1, 10.7, notices=2)],
        [Opened(1.0), read(1, 10.7)],  # not announced yet: its own claim counts
        [HEARD, heard(20.2, 4), heard(30.1, 9), read(4, 30.7, notices=3)],  # two changes ago
        [Opened(1.0), Reset(10.3), read(1, 12.4)],
        [Opened(1.0), Reset(10.3), heard(11.5, 4), read(1, 13.6, notices=2)],
    ],
)
def test_and_not_a_moment_longer_nor_for_who_asked_for_more(records: list[Record]) -> None:
    verdict = judged(*records, limits=STALE)
    assert sum(verdict.stale.values()) == 1, verdict
    assert verdict.served_stale == 0


def test_while_detached_an_answer_is_bounded_all_the_same() -> None:
    limits = Limits(detached=5.0)
    assert judged(read(1, 15.0, staleness=None), limits=limits).true
    assert judged(read(1, 15.2, staleness=None), limits=limits).stale == {"unbounded": 1}


def test_what_was_processed_counts_while_detached_too() -> None:
    assert judged(HEARD, read(1, 10.3, notices=1, staleness=None)).stale == {"older": 1}


def test_an_interval_without_promises_excuses_bounds_inside_it_and_nothing_else() -> None:
    limits = Limits(unpromised=[(10.0, 12.0)])
    inside = judged(HEARD, read(1, 11.9, notices=1), limits=limits)
    assert inside.true
    assert inside.unpromised == 1
    assert judged(HEARD, read(1, 12.1, notices=1), limits=limits).stale == {"older": 1}
    assert judged(HEARD, read(4, 11.0, notices=1), limits=limits).unpromised == 0
    assert judged(read(5, 11.0), limits=limits).stale == {"unreal": 1}


@pytest.mark.parametrize(
    ("lost", "records"),
    [
        ([], [Opened(1.0), HEARD, Sample(10.5, 10.4)]),
        ([], [Opened(1.0), Sample(10.5, 10.05)]),  # not surely committed by then
        ([f"{ROW}@4"], [Opened(1.0), Sample(10.5, 10.4)]),
        ([f"{ROW}@4"], [Opened(1.0), Sample(10.5, 10.4), HEARD]),  # too late
        ([f"{ROW}@4"], [Opened(1.0), Reset(9.0), Sample(10.5, 10.4)]),
        ([], [Opened(1.0), Reset(10.3), Sample(10.5, 10.4)]),
        ([], [Opened(10.05), Sample(10.5, 10.4)]),  # it did not listen yet
        ([], [Opened(1.0), Heard(10.2, (), ("trace:item:*:*",)), Sample(10.5, 10.4)]),
        ([f"{ROW}@4"], [Opened(1.0), Heard(10.2, (), ("trace:note:*:*",)), Sample(10.5, 10.4)]),
        ([f"{ROW}@4"], [Opened(1.0), Heard(9.0, (), ("trace:item:*:*",)), Sample(10.5, 10.4)]),
        # A deletion is announced by its old state, after it.
        ([f"{ROW}@7"], [Opened(1.0), HEARD, Sample(20.5, 20.4)]),
        ([], [Opened(1.0), HEARD, heard(20.2, 4), Sample(20.5, 20.4)]),
    ],
)
def test_a_change_is_announced_before_the_agent_claims_it(lost: list[str], records: list[Record]) -> None:
    assert list(judged(*records).lost) == lost


def test_in_the_end_every_value_is_the_databases() -> None:
    assert judged(Final("item:5", ((ROW, 9),))).true
    assert judged(Final("item:5", ((ROW, 4),))).wrong == ("item:5 in agent",)
    assert judged(Final("item:5", ((ROW, None),))).wrong == ("item:5 in agent",)


def test_the_oldest_answer_is_measured() -> None:
    verdict = judged(read(1, 10.3), read(1, 10.5), read(1, 13.0, staleness=None))
    assert math.isclose(verdict.worst, 0.4)
    assert math.isclose(verdict.worst_detached, 2.9)


def test_commits_acknowledged_late_are_dated_by_those_that_came_after_them() -> None:
    writes = Writes({ROW: [State(1, True, 0, 0), State(2, True, 1.0, math.inf), State(3, True, 2.0, 2.1)]})
    assert writes.replaced(ROW, 0) == writes.replaced(ROW, 1) == 2.1
    assert writes.replaced(ROW, 2) == math.inf
    assert [change.after for change in writes.changes()] == [2.1, 2.1]


def test_versions_that_do_not_grow_are_refused() -> None:
    with pytest.raises(ValueError, match="do not grow"):
        Writes({ROW: [State(2, True, 0, 0), State(2, True, 1, 1)]})


@pytest.mark.parametrize(
    "record",
    [Opened(1.0), HEARD, Heard(1.0, (), ("a*",)), Reset(2.0), Confirmed(1.0, ((ROW, 4),)), Sample(2.0, 1.0),
     read(None, 3.0, staleness=None), read(4, 3.0, bound=0.5), Final("k", ((ROW, None),))],
)  # fmt: skip
def test_a_record_is_a_line(record: Record) -> None:
    assert decode(encode(record)) == record
    assert encode(record).endswith(b"\n")


def test_an_unfinished_line_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"JSON|unexpected|literal|EOF|end of"):
        decode(encode(HEARD)[:-8])

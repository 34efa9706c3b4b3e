"""In-flight marks: which reads are overtaken by what."""

import math

from unstale.near_cache.in_flight import Marks


def test_an_invalidation_soils_every_read_of_the_key_and_no_other() -> None:
    marks = Marks()
    one, two, other = marks.open("a"), marks.open("a"), marks.open("b")
    marks.soil("a")
    later = marks.open("a")
    assert [one.clean, two.clean, other.clean, later.clean] == [False, False, True, True]


def test_a_pattern_soils_what_it_matches() -> None:
    marks = Marks()
    profile, state = marks.open("user:1:profile"), marks.open("user:1:state")
    marks.soil_matching(["user:*:profile"])
    assert (profile.clean, state.clean) == (False, True)


def test_a_flush_soils_all_and_wakes_once() -> None:
    marks = Marks()
    mark = marks.open("a")
    woken: list[str] = []
    mark.on_dirty = lambda: woken.append("woken")
    marks.soil_all()
    marks.soil_all()
    assert not mark.clean
    assert woken == ["woken"]


def test_a_mark_knows_the_newest_message_that_soiled_it() -> None:
    marks = Marks()
    heard, flushed, other = marks.open("a"), marks.open("b"), marks.open("c")
    marks.soil("a", 7)
    marks.soil_matching(["a*"], 9)
    marks.soil("a", 8)
    marks.soil("b", 7)
    marks.soil("b")
    assert (heard.soiled_by, flushed.soiled_by, other.soiled_by) == (9, math.inf, 0)


def test_closed_marks_leave_nothing_behind() -> None:
    marks = Marks()
    mark = marks.open("a")
    marks.close(mark)
    marks.close(mark)
    marks.soil("a")
    assert mark.clean
    assert len(marks) == 0


def test_marks_of_one_key_close_in_any_order() -> None:
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)):
        marks = Marks()
        opened = [marks.open("a") for _ in range(3)]
        for count, which in enumerate(order, start=1):
            marks.close(opened[which])
            assert len(marks) == 3 - count
        newest = marks.open("a")
        marks.soil("a")
        assert [mark.clean for mark in (*opened, newest)] == [True, True, True, False]

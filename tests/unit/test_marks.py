"""In-flight marks: which reads are overtaken by what."""

from unstale.marks import Marks


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


def test_closed_marks_leave_nothing_behind() -> None:
    marks = Marks()
    mark = marks.open("a")
    marks.close(mark)
    marks.close(mark)
    marks.soil("a")
    assert mark.clean
    assert len(marks) == 0

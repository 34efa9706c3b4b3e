"""What `unstale migration` says of a database that lacks something."""

from unstale_worker.forecast.migrations import PUSH, lacking
from unstale_worker.rules import Rules
from unstale_worker.sources import WatchState

RULES = Rules.parse('[[watch]]\ntable = "public.notes"\nkeys = ["note:{id}"]\n')


def state(broken: str | None) -> WatchState:
    return WatchState(1, True, "public", "notes", ("id",), None, broken, None)


def test_a_broken_capture_has_its_own_remedy_and_no_other() -> None:
    (found,) = lacking(
        RULES, [state("the table is gone, and nobody was told; drop the rule; or watch it again")]
    )
    assert (
        found.problem == "the database does not capture public.notes: the table is gone, and nobody was told"
    )
    assert found.remedy == "drop the rule; or watch it again"
    (found,) = lacking(RULES, [state("the table is gone")])
    assert found.remedy == PUSH


def test_a_table_that_nothing_watches_needs_the_migration() -> None:
    (found,) = lacking(RULES, [])
    assert found.remedy == PUSH
    assert list(lacking(RULES, [state(None)])) == []

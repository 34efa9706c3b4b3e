"""What an audit decides without any server: a judgement, what is due when, and how many nines that is."""

import pytest

from unstale.errors import ConfigurationError
from unstale_worker.audit.agenda import AT_RANDOM, Agenda, Due, in_words
from unstale_worker.audit.judging import Compared, Outcome, Pending, differing, judge
from unstale_worker.audit.opening import scope_of
from unstale_worker.audit.tally import Tally, nines
from unstale_worker.cli.audit_command import options_of, seconds_in
from unstale_worker.rules import Rules

KEY = "user:1:profile"


@pytest.mark.parametrize(
    ("cached", "loaded", "pending", "outcome"),
    [
        (b'{"a":1,"b":2}', b'{"b": 2, "a": 1.0}', Pending(), Outcome.EQUAL),
        (b'{"a":1}\n \t', b'{"a":1}', Pending(refusal="away"), Outcome.EQUAL),  # loaded ahead: with a lease
        (b'{"a":1}', b'{"a":2}', Pending({KEY: 7}), Outcome.IN_FLIGHT),
        (b'{"a":1}', b'{"a":2}', Pending(patterns={"user:*:profile": 7}), Outcome.IN_FLIGHT),
        (b'{"a":1}', b'{"a":2}', Pending({"user:2:profile": 7}), Outcome.WRONG),
        (b'{"a":1}', b'{"a":2}', Pending(refusal="away"), Outcome.REFUSED),
        (b'{"a":1}', b'{"a":1,"b":2}', Pending(), Outcome.REFUSED),  # another loader's
        (b'{"a":1}', b'{"a":1,"b":2}', Pending({KEY: 7}), Outcome.IN_FLIGHT),
        (b'{"a":1}', b"null", Pending(), Outcome.WRONG),  # deleted
        (b"no json", b'"x"', Pending(), Outcome.WRONG),
    ],
)
def test_a_value_is_judged(cached: bytes, loaded: bytes, pending: Pending, outcome: Outcome) -> None:
    found = judge(KEY, cached, loaded, pending, 5.0)
    assert (found.key, found.outcome, found.now_ms) == (KEY, outcome, 5.0)
    assert (found.xid == 7) is (outcome is Outcome.IN_FLIGHT)


def test_the_fields_that_differ_are_named() -> None:
    assert differing(b'{"a":1,"b":2}', b'{"a":1,"b":3,"c":4}') == ("b", "c")
    assert differing(b"1", b"2") == ()


def test_a_key_is_due_after_each_delay_and_a_hot_key_is_not_put_off() -> None:
    agenda = Agenda([60.0, 10.0])
    agenda.changed("a", "t", 0.0)
    agenda.changed("b", "u", 1.0)
    agenda.changed("a", "t", 9.0)
    assert agenda.due(9.9, 100) == []
    assert agenda.due(10.0, 100) == [Due("a", "t", "10 s")]
    assert agenda.due(70.0, 1) == [Due("b", "u", "10 s"), Due("a", "t", "1 min")]
    assert agenda.due(70.0, 100) == [Due("b", "u", "1 min")]
    assert len(agenda) == 0
    assert sorted(due.key for due in agenda.at_random(5)) == ["a", "b"]
    assert agenda.at_random(1)[0].delay == AT_RANDOM
    assert agenda.matching(["a*"]) == [("a", "t")]


def test_an_agenda_is_bounded_and_says_what_it_leaves_out() -> None:
    agenda = Agenda([1.0], most=10, seed=1)
    for number in range(100):
        agenda.changed(f"k{number}", "t", 0.0)
    assert (len(agenda), agenda.left_out, agenda.known) == (10, 90, 10)
    assert len({due.key for due in agenda.at_random(10)}) == 10


def test_delays_in_words() -> None:
    assert [in_words(seconds) for seconds in (0.2, 10.0, 60.0, 90.0, 300.0)] == [
        "0.2 s", "10 s", "1 min", "90 s", "5 min",
    ]  # fmt: skip


def test_nines_are_those_that_so_many_comparisons_show() -> None:
    assert nines(0, 0) is None
    assert nines(1, 1_000) == 3.0
    assert nines(0, 3_000) == 3.0
    assert nines(0, 1) == 0.0
    assert nines(5, 10) == 0.3


def test_observations_are_counted_by_table_and_delay() -> None:
    tally, due = Tally(bound=5.0), Due(KEY, "t", "10 s")
    for outcome, open_for in (
        (Outcome.EQUAL, None), (Outcome.IN_FLIGHT, 1.0), (Outcome.IN_FLIGHT, 9.0), (Outcome.ABSENT, None),
        (Outcome.WRONG, None),
    ):  # fmt: skip
        tally.add(due, Compared(KEY, outcome), open_for=open_for)
    tally.add(Due(KEY, "t", AT_RANDOM), Compared(KEY, Outcome.REFUSED, "away"), open_for=None)
    tally.watched(3.0, promised=0.5, seen=0.0)
    tally.watched(1.0, promised=9.0, seen=7.0)
    tally.unanswered(4.0)
    figures = tally.as_dict()
    assert figures["refusals"] == {"away": 1}
    observed, staleness = figures["observations"], figures["staleness"]
    assert isinstance(observed, dict)
    assert isinstance(staleness, dict)
    assert (observed["compared"], observed["late"], observed["consistent_share"]) == (4, 1, 0.25)
    assert (staleness["time_promised_within_share"], staleness["time_seen_within_share"]) == (0.75, 0.75)
    assert staleness["reads_within_share"] == 0.5
    assert (staleness["worst_promised_s"], staleness["worst_seen_s"]) == (9.0, 7.0)


def test_rules_without_a_loader_in_sql_cannot_be_audited() -> None:
    text = '[[watch]]\ntable = "profiles"\nkeys = ["user:{id}:profile", "user:{id}:x"]\n'
    with pytest.raises(ConfigurationError, match="nothing can be audited"):
        scope_of(Rules.parse(text))
    text += '[refresh."user:{id}:profile"]\nloader = "a:b"\n[refresh."user:{id}:x"]\nloader = "row"\n'
    scope = scope_of(Rules.parse(text + 'table = "profiles"\nkey = "id"\n'))
    assert [spec.template.text for spec in scope.audited] == ["user:{id}:x"]
    assert scope.left_out == {"user:{id}:profile": "its loader is Python"}


def test_durations_of_the_command() -> None:
    options = options_of("1s, 2m", 5.0, None, default_bound=4.0)
    assert (options.delays, options.tick, options.bound) == ((1.0, 120.0), 0.25, 4.0)
    assert seconds_in("30", "--for") == 30.0
    with pytest.raises(ConfigurationError, match="--for is 'soon'"):
        seconds_in("soon", "--for")

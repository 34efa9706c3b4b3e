"""Published rules that follow others: which keys lost their owner, and what to invalidate once more."""

from unstale.protocol.key_forms import KeyForm
from unstale.protocol.messages import FORMER_SECONDS, MOST_FORMER, PublishedRules
from unstale_worker.leader.rules_transition import ALL_KNOW_AFTER, RulesTransition

NOW = 1_800_000_000.0
OLD = PublishedRules("1", ("user:*:settings", "user:*:profile"))
NEW = PublishedRules("2", ("user:*:prefs", "user:*:profile"))


def test_a_pattern_that_is_gone_is_former_for_a_week() -> None:
    then = NEW.after(OLD, now=NOW)
    assert then.former == (("user:*:settings", NOW),)
    assert PublishedRules.decode(then.encode()) == then
    assert then.lost_owner("user:3:settings", now=NOW + 5) == "user:*:settings"
    assert then.lost_owner("user:3:profile", now=NOW + 5) is None
    assert then.lost_owner("user:3:settings", now=NOW + FORMER_SECONDS) is None


def test_a_wider_pattern_that_is_left_owns_no_key_of_a_pattern_within_it() -> None:
    """``user:*`` matches ``user:3:settings``, but the change of no row removes that key."""
    text = PublishedRules("2", ("user:*", "*:*:*")).after(OLD, now=NOW)
    assert text.lost_owner("user:3:settings", now=NOW) is None, "*:*:* owns it, placeholder by placeholder"
    left = PublishedRules("2", ("user:*",)).after(OLD, now=NOW)
    assert left.owns("user:3:settings")
    assert left.lost_owner("user:3:settings", now=NOW) == "user:*:settings"
    assert left.lost_owner("user:3", now=NOW) is None
    wider = PublishedRules("2", ("user:*:profile",)).after(PublishedRules("1", ("user:*",)), now=NOW)
    assert wider.lost_owner("user:3:profile", now=NOW) is None
    assert wider.lost_owner("user:3", now=NOW) == "user:*"


def test_a_pattern_that_is_left_owns_no_key_that_no_row_can_have() -> None:
    before = PublishedRules("1", ("user-*", "user-*-settings"))
    form = KeyForm("user-*", ("user-", ""), ("int",))
    left = PublishedRules("2", ("user-*",), forms=(form,)).after(before, now=NOW)
    assert left.lost_owner("user-3-settings", now=NOW) == "user-*-settings"
    assert left.lost_owner("user-3", now=NOW) is None


def test_it_stays_former_through_later_changes_until_it_is_owned_again() -> None:
    later = PublishedRules("3", ("user:*:profile",)).after(NEW.after(OLD, now=NOW), now=NOW + 60)
    assert dict(later.former) == {"user:*:settings": NOW, "user:*:prefs": NOW + 60}
    assert dict(OLD.after(later, now=NOW + 90).former) == {"user:*:prefs": NOW + 60}
    assert dict(PublishedRules("4").after(later, now=NOW + 2 * FORMER_SECONDS).former) == {
        "user:*:profile": NOW + 2 * FORMER_SECONDS
    }


def test_former_patterns_are_bounded_and_the_newest_stay() -> None:
    rules = PublishedRules("0", ("first:*",))
    for number in range(MOST_FORMER + 10):
        rules = PublishedRules(str(number), (f"k{number}:*",)).after(rules, now=NOW + number)
    assert len(rules.former) == MOST_FORMER
    assert rules.former[0][0] == f"k{MOST_FORMER + 8}:*"


def test_added_patterns_are_due_at_once_and_lost_ones_when_every_agent_knows() -> None:
    transition = RulesTransition()
    assert transition.due(0.0) == frozenset()
    transition.recovered(OLD, NEW, at=100.0)
    transition.lost(NEW.after(OLD, now=NOW).former, now=NOW + 1, at=100.0)
    assert transition.due(100.0) == {"user:*:prefs"}
    assert transition.due(100.0 + ALL_KNOW_AFTER - 1) == frozenset()
    assert transition.due(100.0 + ALL_KNOW_AFTER) == {"user:*:settings"}
    assert transition.due(1e9) == frozenset()
    transition.lost(NEW.after(OLD, now=NOW).former, now=NOW + 60, at=200.0)
    assert transition.due(1e9) == frozenset(), "long past"


def test_lives_are_shortened_once_more_when_every_agent_knows() -> None:
    transition = RulesTransition()
    transition.shortened((), at=100.0)
    transition.shortened(("user:*", "a:*"), at=100.0)
    transition.shortened(("user:*",), at=100.0)
    assert transition.lives_due(100.0) == ("user:*", "a:*")
    assert not transition.all_shortened
    assert transition.lives_due(100.0 + ALL_KNOW_AFTER - 1) == ()
    assert transition.lives_due(100.0 + ALL_KNOW_AFTER) == ("user:*", "a:*")
    assert transition.all_shortened
    assert transition.lives_due(1e9) == ()

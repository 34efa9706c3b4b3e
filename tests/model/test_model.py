"""The protocol holds within its bounds, and every defence is needed or covered by another.

The bounds here take seconds; ``python -m tests.model`` explores the longer ones too.
"""

import pytest

from .checker import TooLarge, explore
from .defences import Defence
from .deploy import ADOPTION_CAUGHT, LOST_CAUGHT, Adoption, LostOwner
from .former import FORMER_CAUGHT, FormerWatches
from .freshness import CAUGHT as FRESHNESS_CAUGHT
from .freshness import STALE_CAUGHT, Freshness, ServeStale
from .inputs import INPUTS_CAUGHT, INPUTS_MASKED, Inputs
from .liveness import LIVENESS_CAUGHT, Liveness
from .opening import OPENING_CAUGHT, Opening
from .partitions import FAULTS, PARTITIONS_CAUGHT, Partitions
from .protocol import Protocol
from .spare import SPARE_CAUGHT, SPARE_CHANGES, Kinds, Spare
from .tags import TAGS_CAUGHT, TAGS_MASKED, Tags
from .variants import ALL, CAUGHT, HOLDS, LIMITS, MASKED, Variant
from .waking import WAKING_CAUGHT, Waking


def short(variants: tuple[Variant, ...]) -> list[object]:
    return [pytest.param(variant, id=variant.name) for variant in variants if not variant.long]


@pytest.mark.parametrize("variant", short(HOLDS))
def test_the_protocol_holds(variant: Variant) -> None:
    outcome = explore(Protocol(variant.config))
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1  # it does not hold because nothing ever happens


@pytest.mark.parametrize("variant", short(CAUGHT))
def test_without_the_defence_something_breaks(variant: Variant) -> None:
    outcome = explore(Protocol(variant.config, variant.off))
    assert not outcome.holds


@pytest.mark.parametrize("variant", short(MASKED))
def test_without_the_defence_another_one_covers(variant: Variant) -> None:
    outcome = explore(Protocol(variant.config, variant.off))
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert variant.covers


@pytest.mark.parametrize("variant", short(LIMITS))
def test_what_is_not_promised_does_break(variant: Variant) -> None:
    assert not explore(Protocol(variant.config)).holds


def test_the_bound_on_staleness_is_true() -> None:
    outcome = explore(Freshness())
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", FRESHNESS_CAUGHT)
def test_without_the_rule_staleness_is_a_lie(rule: str) -> None:
    assert not explore(Freshness(off=rule)).holds


def test_a_stale_value_is_served_no_longer_than_its_rule_allows() -> None:
    outcome = explore(ServeStale())
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", STALE_CAUGHT)
def test_without_the_rule_it_is_served_for_longer(rule: str) -> None:
    assert not explore(ServeStale(off=rule)).holds


def test_no_forged_watermark_keeps_an_agent_attached_to_a_dead_worker() -> None:
    outcome = explore(Liveness())
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", LIVENESS_CAUGHT)
def test_without_the_rule_it_does(rule: str) -> None:
    assert not explore(Liveness(off=rule)).holds


@pytest.mark.parametrize("both_own", [False, True])
def test_only_what_changed_is_dropped_when_the_rules_change(both_own: bool) -> None:
    outcome = explore(Adoption(both_own=both_own))
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", ADOPTION_CAUGHT)
def test_without_the_rule_what_stays_is_old(rule: str) -> None:
    assert not explore(Adoption(off=rule)).holds


def test_a_pattern_is_dropped_when_more_changes_count() -> None:
    assert not explore(Adoption(off="changed patterns are dropped", both_own=True)).holds


def test_a_key_that_lost_its_owner_is_as_old_as_its_bound_at_most() -> None:
    outcome = explore(LostOwner())
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", LOST_CAUGHT)
def test_without_the_rule_it_is_older(rule: str) -> None:
    assert not explore(LostOwner(off=rule)).holds


def test_changes_of_former_watches_are_applied_until_no_agent_of_the_old_rules_is_left() -> None:
    outcome = explore(FormerWatches())
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", FORMER_CAUGHT)
def test_without_the_rule_such_an_agent_reads_old_values(rule: str) -> None:
    assert not explore(FormerWatches(off=rule)).holds


def test_no_commit_goes_unheard_by_a_worker_that_falls_asleep() -> None:
    outcome = explore(Waking())
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", WAKING_CAUGHT)
def test_without_the_rule_one_goes_unheard(rule: str) -> None:
    assert not explore(Waking(off=rule)).holds


def test_what_attaches_by_the_state_is_fresh_and_alive() -> None:
    outcome = explore(Opening())
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", OPENING_CAUGHT)
def test_without_the_rule_it_is_old_or_its_worker_is_dead(rule: str) -> None:
    assert not explore(Opening(off=rule)).holds


@pytest.mark.parametrize("near", [False, True], ids=["a failover", "a near cache"])
def test_a_value_under_tags_is_valid_only_if_it_contains_what_invalidated_them(near: bool) -> None:
    outcome = explore(Tags(near=near))
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", TAGS_CAUGHT)
def test_without_the_rule_a_value_under_tags_is_old(rule: str) -> None:
    assert not all(explore(Tags(off=rule, near=near)).holds for near in (False, True))


@pytest.mark.parametrize("rule", TAGS_MASKED)
def test_without_the_rule_the_versions_cover(rule: str) -> None:
    assert explore(Tags(off=rule)).holds


def test_a_value_is_stored_again_only_for_the_inputs_it_was_made_of() -> None:
    outcome = explore(Inputs())
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", INPUTS_CAUGHT)
def test_without_the_rule_it_is_stored_for_others(rule: str) -> None:
    assert not explore(Inputs(off=rule)).holds


@pytest.mark.parametrize("rule", INPUTS_MASKED)
def test_without_the_rule_the_others_cover(rule: str) -> None:
    assert explore(Inputs(off=rule)).holds


@pytest.mark.parametrize("changes", SPARE_CHANGES, ids=", ".join)
def test_a_spare_value_is_never_answered_past_its_bound_or_a_purge(changes: Kinds) -> None:
    outcome = explore(Spare(changes))
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", SPARE_CAUGHT)
def test_without_the_rule_a_spare_value_is(rule: str) -> None:
    assert not explore(Spare(SPARE_CAUGHT[rule], off=rule)).holds


@pytest.mark.parametrize("fault", FAULTS)
def test_partitions_keep_their_promises_apart(fault: str) -> None:
    outcome = explore(Partitions(fault))
    assert outcome.holds, "\n".join((str(outcome), *outcome.trace))
    assert outcome.at_rest > 1


@pytest.mark.parametrize("rule", PARTITIONS_CAUGHT)
def test_without_the_rule_a_partition_breaks_its_promise(rule: str) -> None:
    assert not explore(Partitions(PARTITIONS_CAUGHT[rule], off=rule)).holds


def test_every_defence_is_switched_off_somewhere() -> None:
    off = {defence for variants in ALL.values() for variant in variants for defence in variant.off}
    assert off == set(Defence)


def test_names_are_told_apart() -> None:
    names = [variant.name for variants in ALL.values() for variant in variants]
    assert len(names) == len(set(names))


def test_a_search_that_is_cut_short_is_no_verdict() -> None:
    with pytest.raises(TooLarge):
        explore(Protocol(HOLDS[0].config), limit=100)

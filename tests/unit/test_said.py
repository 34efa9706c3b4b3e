"""A text that is said again and again is said once in a while."""

import math

from unstale_worker.runtime.log_throttle import Said


def test_the_same_text_is_said_once() -> None:
    said = Said(every=math.inf)
    assert [said.anew(text) for text in ("a", "a", "b", "b", "a")] == [True, False, True, False, True]


def test_the_same_text_is_said_again_after_a_while() -> None:
    said = Said(every=0.0)
    assert said.anew("a")
    assert said.anew("a")

"""A repeated log message is logged only at intervals."""

import math

from unstale_worker.runtime.log_throttle import LogThrottle


def test_the_same_text_is_logged_once() -> None:
    throttle = LogThrottle(every=math.inf)
    assert [throttle.allows(text) for text in ("a", "a", "b", "b", "a")] == [True, False, True, False, True]


def test_the_same_text_is_logged_again_after_a_while() -> None:
    throttle = LogThrottle(every=0.0)
    assert throttle.allows("a")
    assert throttle.allows("a")

"""TTLs are shortened at random: values that were stored together must not expire together."""

from typing import Any

import pytest

from unstale.freshness.published_rules import KnownRules
from unstale.settings import WorkerSettings
from unstale_worker.refresh.ttl import Ttls
from unstale_worker.rules import Rules

RULES = Rules.parse("""
[[watch]]
table = "t"
keys = ["k:{id}"]

[ttl]
"k:*" = "1000s"

[refresh."k:{id}"]
loader = "m:f"
""")


def spread(ttls: list[float], jitter: float) -> None:
    """Check that 500 TTLs of 1000 s lie in the last share of it, and all over it."""
    assert all(1_000 * (1 - jitter) <= ttl <= 1_000 for ttl in ttls)
    tenths = {int((1_000 - ttl) / (100 * jitter)) for ttl in ttls if jitter}
    assert len(tenths) >= (8 if jitter else 0), "spread over the whole share"
    assert (len(set(ttls)) > 400) is bool(jitter)


@pytest.mark.parametrize("jitter", [0.1, 0.5, 0.0])
def test_of_refreshed_values(jitter: float) -> None:
    ttls = Ttls.of(RULES, WorkerSettings(ttl_jitter=jitter))
    (spec,) = RULES.refreshes
    spread([ttls.stored("k:1", spec, b"1")[1] for _ in range(500)], jitter)


@pytest.mark.parametrize("jitter", [0.1, 0.5, 0.0])
def test_of_loaded_values(jitter: float) -> None:
    tier: Any = None
    rules = KnownRules(tier, default_ttl=60.0, jitter=jitter)
    spread([rules.shortened(1_000.0) for _ in range(500)], jitter)

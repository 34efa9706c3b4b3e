"""Totals over agents that come, go and start again only grow, and their labels are bounded."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from unstale.near_cache.tallies import OTHERS
from unstale.protocol.agent_reports import AgentReport, Counted, Shape
from unstale_worker.agents.read import Agent, Agents
from unstale_worker.observe.agent_metrics import MOST_PATTERNS, UNOWNED, AgentTotals

EMPTY = AgentReport(
    name="", host="web-1", pid=1, version="1", rules="5e", epoch="9f", last=1, running=1.0, attached=1.0,
    staleness=0.25, near_entries=0, near_bytes=0,
)  # fmt: skip


def agents(**loads: int) -> Agents:
    """Agents that have called loaders so often."""
    return Agents(
        "5e", "9f", 1,
        tuple(
            Agent(name, 1.0, 0, "same", replace(EMPTY, patterns={"user:*": Counted(loads=count)}))
            for name, count in loads.items()
        ),
    )  # fmt: skip


def test_an_agent_that_leaves_or_starts_again_lets_no_total_fall() -> None:
    totals, seen = AgentTotals(), []
    for found in (agents(a=5), agents(a=7, b=2), agents(b=3), agents(a=8, b=3), agents(c=1), agents()):
        totals.add(found)
        seen.append(totals.patterns["user:*"].loads)
    assert seen == [5, 9, 10, 11, 12, 12]


def test_patterns_and_shapes_that_agents_choose_are_bounded() -> None:
    totals = AgentTotals()
    for number in range(MOST_PATTERNS + 50):
        shapes = {f"shape{number}": Shape(Counted(misses=1))}
        report = replace(EMPTY, patterns={f"p{number}": Counted(misses=1)}, shapes=shapes)
        totals.add(Agents("5e", "9f", 1, (Agent(f"agent{number}", 1.0, 0, "same", report),)))
    assert len(totals.patterns) == MOST_PATTERNS + 1
    assert totals.patterns[UNOWNED].misses == MOST_PATTERNS + 50
    assert totals.patterns[OTHERS].misses == 51
    families = {family.name for family in text_string_to_metric_families(totals.text(agents()).decode())}
    assert "unstale_agents_reads" in families

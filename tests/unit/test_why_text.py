"""``unstale why`` as text: an agent that has not reported since a change has not missed it."""

from unstale.protocol.agent_reports import AgentReport
from unstale_worker.agents.read import Agent, Agents
from unstale_worker.cli.tracing_output import _removal
from unstale_worker.tracing.why import Removal, followed

KEY = "note:1"
AT = 1_000_000
"""When the log entry was written."""


def removal(*, operation: str = "update", pattern: str | None = None) -> Removal:
    return Removal(
        id=7, kind="changes", pattern=pattern, table="public.notes", operation=operation, xid=779, lines=(2,),
        annotation=None, process=None, committed_after_ms=None, read_ms=AT - 3, applied_ms=AT,
    )  # fmt: skip


def agent(pid: int, *, last: int, reported: int, attached: float | None = 60.0) -> Agent:
    report = AgentReport("", "vm", pid, "0.2.0", "r", "e", last, 60.0, attached, 0.1, 0, 0, heard=[(last, 5)])
    return Agent(str(pid), 0.0, AT + reported, "same", report)


def text(*agents: Agent, now: int) -> list[str]:
    (found,) = followed(KEY, [removal()], Agents("r", "e", 7, agents, now=(AT + now) / 1000))
    return [line.strip() for line in _removal("unstale.toml", found)][3:]


def test_an_agent_that_has_not_reported_since_is_waited_for() -> None:
    heard = agent(1, last=7, reported=400)
    found = text(
        heard,
        agent(2, last=6, reported=-9_000),
        agent(3, last=6, reported=-3_000),
        agent(4, last=6, reported=20),  # its report was on its way when the entry was written
        now=1_000,
    )
    assert found[0].startswith("heard      by 1 of 4 agents that report")
    assert found[1:] == [
        "waiting    3 agents have not reported since; agents report every 10 s: ask again in 12 s"
    ]
    overdue = text(heard, agent(2, last=6, reported=-9_000), now=4_000)
    assert overdue[1].startswith("overdue    1 agent has not reported since: vm:2; an agent that ended")


def test_an_agent_that_reported_later_without_it_is_a_finding() -> None:
    found = text(agent(1, last=6, reported=5_000), agent(2, last=6, reported=5_000, attached=None), now=6_000)
    assert found == [
        "heard      by 0 of 2 agents that report",
        "NOT HEARD  by vm:1, vm:2 (detached), which reported later; see unstale agents",
    ]


def test_a_whole_table_says_what_may_have_happened() -> None:
    (line, *_) = _removal("unstale.toml", removal(operation="change", pattern="note:*"))
    assert line.endswith(
        "public.notes was watched, watched again, unwatched or altered (DDL) in transaction 779, "
        "by the pattern note:*"
    )
    (line, *_) = _removal("unstale.toml", removal(operation="truncate", pattern="note:*"))
    assert "truncate of public.notes in transaction 779, by the pattern note:*" in line

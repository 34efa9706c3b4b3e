"""The leader's event loop is free again and again while it works on a page, so that its lease is renewed."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from unstale.protocol.names import Names
from unstale_worker.leader import planning
from unstale_worker.leader.planning import plan_page, renewals_of
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import StoredState
from unstale_worker.rules import Plan, Rules
from unstale_worker.runtime import slices
from unstale_worker.sources import OutboxEntry, Page, WatchVersion

ROWS = 20_000
RULES = Rules.parse("""
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[[watch]]
table = "public.organizations"
keys = ["user:{user}:settings"]
query = "select member as user from public.members where org = {id}"

[refresh."user:{id}:profile"]
loader = "m:f"
""")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(planning, "ROWS_A_SLICE", 1_000)


async def turns(work: Awaitable[Any]) -> tuple[Any, int]:
    """Return what ``work`` returns, and how often another task ran meanwhile."""
    count = 0

    async def other() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    before = count
    try:
        return await work, count - before
    finally:
        task.cancel()
        await asyncio.wait([task])


class Versions:
    """A watch of each table."""

    async def watch_version(self, watch: int, version: int) -> WatchVersion:
        return WatchVersion("public", {1: "profiles", 2: "organizations"}[watch], ("id",))


def page(*entries: OutboxEntry) -> Page:
    return Page("7:1", "9:9:", "9:9:", False, None, "0/2", "0/1", True, 9, entries, 0.0)


@pytest.mark.parametrize("watch", [1, 2])
@pytest.mark.parametrize("rows_each", [1, ROWS])
async def test_planning_lets_others_run(watch: int, rows_each: int) -> None:
    entries = [
        OutboxEntry(watch, 1, [str(row) for row in range(start, start + rows_each)])
        for start in range(0, ROWS, rows_each)
    ]
    plan, ran = await turns(plan_page(page(*entries), RULES, Versions()))
    assert ran >= ROWS / 1_000
    wanted = plan.keys if watch == 1 else plan.queries[RULES.watches[1]]
    assert len(wanted) == ROWS


async def test_finding_refreshes_lets_others_run() -> None:
    plan = Plan(keys={f"user:{row}:profile": 0 for row in range(ROWS)}, purged={"user:7:profile": 0})
    found, ran = await turns(renewals_of(plan, RULES))
    assert ran >= ROWS / 1_000
    assert len(found) == ROWS
    assert found["user:7:profile"].serve_ms == -1


class Accepting:
    """A Redis that accepts every script at once."""

    breaks = 0

    def __init__(self) -> None:
        self.calls = 0

    async def pipeline(self, *calls: object) -> Sequence[object]:
        self.calls += len(calls)
        return [[b"ok", 1, 1, b"", b"1.0"]] * len(calls)


async def test_writing_the_scripts_lets_others_run() -> None:
    redis: Any = Accepting()
    applier = Applier(redis, Names(), fence=1, log_max_bytes=1 << 20, script_keys=100)
    state = StoredState("r", epoch="e", run="r", position="8:8:", rules="h")
    keys = [f"user:{row}:profile" for row in range(ROWS)]
    _, ran = await turns(applier.apply(state, page(), keys=keys, patterns=[], store=True))
    assert redis.calls == ROWS / 100
    assert ran >= ROWS / 100

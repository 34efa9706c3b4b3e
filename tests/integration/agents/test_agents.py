"""Agents report themselves to Redis: who they are, what they follow, and their reads by key pattern."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from servers import Database, eventually
from unstale import Cache
from unstale.protocol.names import Names
from unstale_worker.agents.read import Agent, Agents, read_agents
from unstale_worker.agents.show import as_dict, lines
from unstale_worker.dev_servers import migrations_folder
from unstale_worker.doctor import Severity, examine
from unstale_worker.forecast.plan import lines as planned
from unstale_worker.forecast.plan import plan_running
from unstale_worker.observe.agent_metrics import AGENT_METRICS
from unstale_worker.observe.http import serving
from unstale_worker.rules import Rules
from unstale_worker.tracing.why import Removal, why
from workers import SCHEMA, connected, redis_at, running_worker, settings_for
from workers.commands import run
from workers.double import attached_cache

pytestmark = pytest.mark.leaves_keys("user.*")

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:greeting"]

[ttl]
"user:*" = "1h"
"""
BEAT = 0.1
"""Seconds between two reports in these tests."""


@pytest.fixture(autouse=True)
def kept_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep reports for longer than a busy machine may be late with the next."""
    monkeypatch.setattr("unstale.reporting.reporter.BEATS_KEPT", 60 / BEAT)


async def reported(redis: Redis, count: int) -> Agents:
    """Wait until so many agents report, and return them."""

    async def there() -> Agents | None:
        found = await read_agents(redis, Names())
        return found if len(found.agents) == count else None

    found = await eventually(there, message=f"{count} agents report")
    assert found is not None
    return found


async def up_to_date(redis: Redis, name: str, reads: int) -> Agent:
    """Wait until the agent of that name has reported so many reads."""

    async def there() -> Agent | None:
        found = (await read_agents(redis, Names())).agents
        return next((a for a in found if a.report.name == name and a.report.counted.reads >= reads), None)

    found = await eventually(there, message=f"{name} reports {reads} reads")
    assert found is not None
    return found


async def test_agents_report_what_they_follow_and_what_they_read(
    database: Database, redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "unstale.toml").write_text(RULES)
    settings = {"DATABASE_URL": database.dsn, "REDIS_URL": redis_url}
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES) as worker:
            async with (
                attached_cache(redis_url, agent_name="web", report_interval=BEAT) as web,
                attached_cache(redis_url, agent_name="jobs", report_interval=BEAT) as jobs,
                attached_cache(redis_url, report_interval=0),
            ):
                with caplog.at_level(logging.WARNING, "unstale"):
                    await reads(web, jobs)
                assert caplog.text.count("Did you mean 'user:*:profile'?") == 1
                await up_to_date(redis, "jobs", 2)
                await says_what_was_read(await up_to_date(redis, "web", 9))
                both = await reported(redis, 2)  # and not the one that was told not to
                assert [agent.label.partition(" ")[0] for agent in both.agents] == ["jobs", "web"]
                assert both.patterns["user:*:profile"].reads == 8
                assert not both.others
                ended = await asyncio.to_thread(run, "agents", cwd=tmp_path, settings=settings)
                assert ended.code == 0, ended.err
                assert re.search(
                    r"user:\*:profil +2 reads, 50.0% hits, 1 load .*did you mean user", ended.out
                )
                stats = await asyncio.to_thread(run, "stats", cwd=tmp_path, settings=settings)
                assert re.search(r"^reporting: 2 agents$", stats.out, re.MULTILINE)
                assert re.search(r"^user:\*:profile: 8 reads, 75.0% hits, 2 loads", stats.out, re.MULTILINE)
                doubts = await doubted(database.dsn, redis_url, tmp_path)
                assert len(doubts) == 1
                assert "web (" in doubts[0]
                assert "did you mean user:*:profile?" in doubts[0]
                async with serving(settings_for(None, redis_url, http_port=0), worker.status) as url:
                    await served(url)
                await db.execute("insert into profiles (id) values (7)")
                await is_traced(redis, web)
                traced = await asyncio.to_thread(
                    run, "why", "user:7:profile", cwd=tmp_path, settings=settings
                )
                assert "    heard      by 2 of 2 agents that report, the last by " in traced.out
                assert re.search(r"^    filled     .* by web \(", traced.out, re.MULTILINE)
            assert not (await reported(redis, 0)).agents  # they have said that they leave
            await follows_other_rules(redis, redis_url)
            await is_found_by_plan(redis, database.dsn, redis_url, tmp_path)


async def reads(web: Cache, jobs: Cache) -> None:
    """Read known keys, a misspelt one, and one that a change overtakes."""
    for _ in range(5):
        await web.get_or_load("user:7:profile", lambda: "Ada")
    await jobs.get_or_load("user:7:profile", lambda: "never")
    await jobs.get_or_load("user:7:profile", lambda: "never")

    async def overtaken() -> str:
        await jobs.delete("user:8:profile")
        return "old"

    await web.get_or_load("user:8:profile", overtaken)
    assert await web.get("user:9:greeting") is None
    for _ in range(2):
        await web.get_or_load("user:7:profil", lambda: "Ada")


async def says_what_was_read(agent: Agent) -> None:
    """Check one report against the reads above."""
    report = agent.report
    assert (report.host, report.pid) == (socket.gethostname()[:24], os.getpid())
    assert agent.follows == "same"
    assert report.attached is not None
    assert report.staleness is not None
    profile = report.patterns["user:*:profile"]
    assert (profile.near_hits, profile.misses, profile.loads, profile.fills) == (4, 2, 2, 1)
    assert profile.fills_refused == 1
    assert 0 < profile.longest_load <= profile.load_seconds
    assert report.patterns["user:*:greeting"].misses == 1
    shape = report.shapes["user:*:profil"]
    assert (shape.meant, shape.counted.reads, shape.counted.loads) == ("user:*:profile", 2, 1)
    assert report.heard[-1][0] == report.last


async def served(url: str) -> None:
    """Check what the worker's HTTP server says of them."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/api/agents") as response:
        assert response.status == 200
        data: Any = await response.json()
    assert (data["reporting"], data["attached"], data["other_rules"]) == (2, 2, 0)
    assert data["patterns"]["user:*:profile"]["reads"] == 8
    assert data["unowned"]["user:*:profil"]["meant"] == "user:*:profile"
    json.dumps(data)
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        text = await response.text()
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name.startswith("unstale_agents")
    }
    assert {name for name, *_ in found} == {metric.name for metric in AGENT_METRICS}
    assert found["unstale_agents_reporting",] == 2
    assert found["unstale_agents_misspelt_shapes",] == 1
    assert found["unstale_agents_reads_total", "near", "user:*:profile"] == 5
    assert found["unstale_agents_fills_total", "refused", "user:*:profile"] == 1
    assert found["unstale_agents_loads_total", "(no rule)"] == 1


async def is_traced(redis: Redis, web: Cache) -> None:
    """Check that `unstale why` tells who has heard of a change, and who has filled the key again."""

    async def filled() -> Removal | None:
        await web.get_or_load("user:7:profile", lambda: "new")
        newest = (await why(redis, Names(), Rules.parse(RULES), "user:7:profile", most=1)).removals
        known = newest and newest[0].kind == "changes" and newest[0].filled
        return newest[0] if known and all(each.heard for each in newest[0].heard) else None

    found = await eventually(filled, message="the agents report that they heard of the change")
    assert found is not None
    assert found.applied_ms is not None
    assert [each.agent.partition(" ")[0] for each in found.heard] == ["jobs", "web"]
    assert all((each.by_ms or 0) >= found.applied_ms - 5 for each in found.heard)
    assert [each.agent.partition(" ")[0] for each in found.filled] == ["web"]
    assert found.filled[0].at_ms >= found.applied_ms - 5


async def follows_other_rules(redis: Redis, redis_url: str) -> None:
    """Check that an agent is marked which does not follow the rules in force."""
    async with attached_cache(redis_url, report_interval=BEAT):
        await reported(redis, 1)
        await redis.set(Names().agent("f" * 16), b"{}", px=60_000)
        await redis.zadd(Names().agents, {"f" * 16: 1, "e" * 16: 2})  # one unreadable, one without a report
        found = await read_agents(redis, Names())
        assert (len(found.agents), found.unreadable) == (1, 1)
        stranger = Agents("other rules", found.epoch, found.last, found.agents)
        assert not stranger.others  # marked when it is read
        await redis.hset(Names().state, "rules", "other rules")
        found = await read_agents(redis, Names())
        assert [agent.follows for agent in found.others] == ["other"]
        assert "OTHER RULES" in "\n".join(lines(found))
        assert as_dict(found)["other_rules"] == 1


async def doubted(dsn: str, redis_url: str, folder: Path) -> list[str]:
    """Return what the doctor says is wrong with the agents."""
    findings = await examine(settings_for(dsn, redis_url, config=folder / "unstale.toml"))
    return [
        found.finding for found in findings if found.subject == "agents" and found.severity is not Severity.OK
    ]


async def is_found_by_plan(redis: Redis, dsn: str, redis_url: str, folder: Path) -> None:
    """Check what `unstale plan` says of an agent with other rules, and of one with an old template."""
    async with attached_cache(redis_url, agent_name="late", report_interval=BEAT) as late:
        rules = late.inspect().rules
        rules.adopt(replace(rules.published, former=(("user:*:old", time.time()),)))
        await late.get_or_load("user:7:old", lambda: 1)
        await up_to_date(redis, "late", 1)
        await redis.hset(Names().state, "rules", "other rules")
        settings, file = settings_for(dsn, redis_url), Rules.load(folder / "unstale.toml")
        plan = await plan_running(settings, file, folder=folder, base=migrations_folder(), count=False)
    said = "\n".join(planned(plan))
    assert re.search(r"agents: late \(.*\) follow other rules than those in force", said)
    assert re.search(r"agents: late \(.*\) read keys like user:\*:old \(1 read\): no rule owns", said)

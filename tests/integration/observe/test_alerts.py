"""Each alert fires for its fault, by what a real worker tells Prometheus, and is silent before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from servers import eventually
from servers.promtool import Fault, Scrape, check_alerts, promtool, scraped
from unstale.protocol.names import Names
from unstale_worker.agents.read import Agents, read_agents
from unstale_worker.captures import monitor
from unstale_worker.dev_servers import EmbeddedPostgres, EmbeddedValkey
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe import worker_health
from unstale_worker.observe.agent_metrics import AGENT_METRICS, AgentMetric, AgentTotals
from unstale_worker.observe.metric_table import DEFINITIONS, Definition
from unstale_worker.observe.metrics import Metrics
from unstale_worker.observe.status import Role, Status, seconds_since
from unstale_worker.redis.applier import Applier
from workers import PROFILES, SCHEMA, connected, redis_at, running_worker
from workers.double import attached_cache
from workers.refresh_stage import due

ALERTS = Path(__file__).parents[3] / "deploy" / "prometheus" / "alerts.yml"
FAILING = """
[refresh."user:{user_id}:profile"]
loader = "sql"
query = "select 1 / 0 as value from public.profiles where id = {user_id}"
"""
PAID = """
[refresh."user:{user_id}:greeting_instructions"]
loader = "refresh_loaders:greeting"
budget = "1/d"
"""


class Watched:
    """A worker, and what Prometheus would have scraped of it."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.faults = worker, list[Fault]()
        self._metrics, self._totals, self._agents = Metrics(worker.status), AgentTotals(), b""

    @property
    def status(self) -> Status:
        return self.worker.status()

    def scrape(self) -> Scrape:
        return scraped(self._metrics.text() + self._agents)

    async def look_at_agents(self, redis: Redis) -> Agents:
        """Read the agents' reports for the next scrapes."""
        found = await read_agents(redis, Names())
        self._agents = self._totals.text(found)
        return found

    @asynccontextmanager
    async def fault(self, *alerts: str) -> AsyncIterator[list[Scrape]]:
        """The body causes a fault; more scrapes than the last can be put into the list."""
        before, began = self.scrape(), time.monotonic()
        during: list[Scrape] = []
        yield during
        during.append(self.scrape())
        seconds = time.monotonic() - began
        self.faults += [Fault(alert, before, during, seconds) for alert in alerts]


async def test_each_alert_fires_for_its_fault(
    own_postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promtool()
    for name in ("CHECK_EVERY", "REPEAT_EVERY"):
        monkeypatch.setattr(monitor, name, 0.2)
    dsn, more = own_postgres.dsn(), dict[str, Any](refresh_attempts=2, refresh_backoff=0.01)
    async with connected(own_postgres.superuser_dsn) as admin:
        await admin.execute(f"set role postgres; {SCHEMA}; reset role")
        await admin.execute("set event_triggers = off")  # else the captures follow each DDL
        async with (
            redis_at(valkey.url) as redis,
            running_worker(dsn, valkey.url, rules=PROFILES + FAILING + PAID, **more) as worker,
        ):
            watched = Watched(worker)
            await changes_of_the_database(watched, admin, monkeypatch)
            await mistakes_of_agents(watched, redis, valkey.url)
            await changes_of_redis(watched, redis)
            await servers_away(watched, own_postgres, valkey, admin, monkeypatch)
    every: list[Definition | AgentMetric] = [*DEFINITIONS, *AGENT_METRICS]
    assert {fault.alert for fault in watched.faults} == {
        definition.alert.name for definition in every if definition.alert is not None
    }
    await asyncio.to_thread(check_alerts, ALERTS, watched.faults, tmp_path)


async def changes_of_the_database(
    watched: Watched, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow applying, many truncates, captures that are disabled or do not fit."""
    apply = Applier.apply

    async def slow(self: Applier, *arguments: Any, **more: Any) -> Any:
        await asyncio.sleep(1.5 if arguments[1].entries else 0)
        return await apply(self, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Applier, "apply", slow)
        async with watched.fault("UnstaleSlow"):
            await admin.execute("insert into profiles (id) values (1)")
            await eventually(lambda: sum(watched.status.counters.latency.counts) > 0)
    async with watched.fault("UnstaleManyPatterns"):
        before = watched.status.counters.patterns
        for _ in range(20):
            await admin.execute("truncate profiles")
        await eventually(lambda: watched.status.counters.patterns > before)
    async with watched.fault("UnstaleCapturesBroken"):
        await admin.execute("alter table profiles disable trigger unstale_1_update")
        await eventually(lambda: watched.status.not_captured)
    (series,) = [name for name in watched.scrape() if "capture_problem" in name]
    assert 'problem="disabled"' in series
    assert 'table="public.profiles"' in series
    assert abs(watched.scrape()[series] - time.time()) < 300
    await admin.execute("alter table profiles enable always trigger unstale_1_update")
    await eventually(lambda: not watched.status.capture_problems)
    async with watched.fault("UnstaleCapturesCoarse"):
        await admin.execute("set event_triggers = on")
        await admin.execute("alter table profiles drop column id")
        await eventually(lambda: watched.status.coarsely_captured)
    assert ("public.profiles", "whole table") in watched.status.capture_problems


async def mistakes_of_agents(watched: Watched, redis: Redis, url: str) -> None:
    """An agent misspells a key, follows other rules, and does not hear of anything."""
    async with attached_cache(url, report_interval=0.1) as cache:

        async def reported() -> bool:
            return len((await watched.look_at_agents(redis)).agents) == 1

        await eventually(reported)
        async with watched.fault("UnstaleMisspeltKeys"):
            await cache.get_or_load("user:7:profil", lambda: "Ada")

            async def misspelt() -> bool:
                return any(shape.meant for shape in (await watched.look_at_agents(redis)).shapes.values())

            await eventually(misspelt)
        async with watched.fault("UnstaleAgentsOtherRules"):

            async def other_rules() -> bool:
                rules = cache.inspect().rules
                rules.adopt(replace(rules.published, hash="of another day"))  # until the next watermark
                return bool((await watched.look_at_agents(redis)).others)

            await eventually(other_rules)
        async with watched.fault("UnstaleAgentsDetached"):
            await redis.publish(Names().channel, b'{"v": 99}')  # the worker is of a later version

            async def detached() -> bool:
                await redis.publish(Names().channel, b'{"v": 99}')
                agents = (await watched.look_at_agents(redis)).agents
                return any(agent.report.attached is None for agent in agents)

            await eventually(detached)


async def changes_of_redis(watched: Watched, redis: Redis) -> None:
    """Refreshes that fail or have no budget, a state that is lost, a leadership taken again and again."""
    names = Names()
    async with watched.fault("UnstaleDeadLetters", "UnstaleRefreshesFail"):
        await due(redis, *(f"user:{number}:profile" for number in range(1, 6)))
        await eventually(lambda: watched.status.refreshed.dead > 0)
    async with watched.fault("UnstaleOverBudget"):
        await due(redis, *(f"user:{number}:greeting_instructions" for number in range(1, 4)))
        await eventually(lambda: watched.status.refreshed.over_budget)
    async with watched.fault("UnstaleRecovery"):
        recoveries = watched.status.counters.recoveries
        await redis.hdel(names.state, "position")
        await eventually(lambda: watched.status.counters.recoveries > recoveries)
    async with watched.fault("UnstaleLeadershipFlaps") as scrapes:
        for _ in range(5):
            fence = watched.status.fence
            await redis.hset(names.state, "fence", str(fence + 1))
            await eventually(partial(leads_again, watched, fence))
            scrapes.append(watched.scrape())


def leads_again(watched: Watched, fence: int) -> bool:
    return watched.status.fence > fence


async def servers_away(
    watched: Watched,
    postgres: EmbeddedPostgres,
    valkey: EmbeddedValkey,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Postgres gone, then Redis."""
    await eventually(lambda: watched.status.ready)
    async with watched.fault("UnstaleDatabaseAway", "UnstaleLag", "UnstaleNoWatermark"):
        await postgres.kill()
        await eventually(lambda: not watched.status.database)
        # Scraped as a quarter of a minute later.
        monkeypatch.setattr(worker_health, "seconds_since", lambda at: seconds_since(at) + 15)
    monkeypatch.undo()
    await postgres.start()
    await eventually(lambda: watched.status.ready)
    async with watched.fault("UnstaleRedisAway", "UnstaleWorkerNotReady", "UnstaleNoLeader", "UnstaleErrors"):
        await valkey.kill()
        await eventually(lambda: watched.status.role is not Role.LEADING and not watched.status.redis)

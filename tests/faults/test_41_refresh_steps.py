"""41: a refresh fails, or its worker is killed, at each of its steps; every changed key is refreshed.

Guards: a key leaves the refresh set only with the fill whose lease stood, what was claimed is due again, and
leases run out (`refresh_fill.lua`, `refresh_claim.lua`). The last test shows that a key would be lost if a
claim removed it.
"""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

import refresh_loaders
from servers import PATIENCE, Database, eventually
from unstale.errors import DatabaseUnavailable, RedisUnavailable
from unstale.runtime import failpoints
from unstale_worker.refresh.redis.dead_letters import list_dead
from unstale_worker.refresh.redis.refresh_set import Claimed, RefreshSet
from workers import applied, connected, redis_at, running_worker, worker_process
from workers.refresh_stage import NAMES, settled

USERS = range(1, 9)
SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles select n, 'old' from generate_series(1, 8) n;
select unstale.watch('public.profiles', '{id}');
"""
RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:name", "user:{id}:greeting"]

[refresh."user:{user_id}:name"]
loader = "sql"
query = '''
    select name as value from public.profiles where id = {user_id}
    union all select 'a second row: a failure' from public.profiles where id = {user_id} and name = 'twice'
'''
ttl = "1h"

[refresh."user:{user_id}:greeting"]
loader = "refresh_loaders:greeting"
concurrency = 8
budget = "1000000/d"
ttl = "1h"
"""
STEPS = [
    name
    for name in failpoints.POINTS
    if name.startswith(("coordinator.", "sql_", "loader_worker.", "python_refresher."))
]
QUICK: dict[str, Any] = {"leader_ttl": 0.5, "lease_ttl": 1.0, "refresh_takeover": 1.0, "refresh_backoff": 0.1}
TESTS = Path(__file__).parents[1]


@dataclass
class World:
    """Rows, and two keys of each, which are in Redis when their row changes."""

    db: asyncpg.Connection
    redis: Redis

    async def cached(self) -> None:
        """Store an old value at both keys of each row."""
        await self.redis.mset(
            {f"user:{n}:{kind}": json.dumps("older") for n in USERS for kind in ("name", "greeting")}
        )

    async def change(self, name: str) -> None:
        """Give every row this name, in one transaction."""
        await self.db.execute("update public.profiles set name = $1", name)

    async def refreshed(self, name: str) -> None:
        """Wait until every key holds its row's name, none is to be refreshed and none is a dead letter."""
        await applied(self.redis, self.db)
        await settled(self.redis, timeout=60)
        names = await self.redis.mget([f"user:{n}:name" for n in USERS])
        assert names == [json.dumps(name).encode()] * len(USERS)
        greetings = await self.redis.mget([f"user:{n}:greeting" for n in USERS])
        assert None not in greetings
        assert {json.loads(value or b"")["greeting"] for value in greetings} == {f"Hello {name}"}
        assert not [key async for key in self.redis.scan_iter(match=NAMES.stale("*"))]
        assert await list_dead(self.redis, NAMES) == []


@asynccontextmanager
async def world(database: Database, redis_url: str) -> AsyncIterator[World]:
    refresh_loaders.reset()
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        yield World(db, redis)


async def reach(step: str, at: World, point: failpoints.Point) -> None:
    """Change the rows so that the step is reached."""
    greetings = [f"user:{n}:greeting" for n in USERS]
    match step:
        case "python_refresher.before_postpone":
            refresh_loaders.mood.update(dict.fromkeys(greetings, "refuse"))
        case "python_refresher.before_failed":
            refresh_loaders.mood.update(dict.fromkeys(greetings, "fail"))
    await at.change("twice" if step == "sql_refresher.before_failed" else f"at {step}")
    await point.wait(seconds=PATIENCE)


async def test_a_server_does_not_answer_at_a_step(database: Database, redis_url: str) -> None:
    """One worker meets the error at each step, and refreshes every key each time."""
    async with (
        world(database, redis_url) as at,
        running_worker(database.dsn, redis_url, rules=RULES, **QUICK),
    ):
        for step in STEPS:
            await at.cached()
            error = RedisUnavailable("here")
            if step == "sql_refresher.before_postpone":
                with (
                    failpoints.armed(step, error=error) as point,
                    failpoints.armed("sql_refresher.after_acquire", error=DatabaseUnavailable("here")),
                ):
                    await reach(step, at, point)
            else:
                with failpoints.armed(step, error=error) as point:
                    await reach(step, at, point)
            refresh_loaders.mood.clear()
            refresh_loaders.opened.set()
            await at.change(f"after {step}")
            await at.refreshed(f"after {step}")


@pytest.mark.parametrize(
    "step",
    [
        "sql_refresher.after_acquire",
        "sql_refresher.after_fill",
        "coordinator.before_ready",
        "loader_worker.after_reserve",
        "python_refresher.after_acquire",
        "python_refresher.after_spend",
        "python_refresher.after_fill",
    ],
)
async def test_the_worker_is_killed_at_this_step(database: Database, redis_url: str, step: str) -> None:
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    quick = {f"UNSTALE_{name.upper()}": str(value) for name, value in QUICK.items()}
    quick["PYTHONPATH"] = path
    async with world(database, redis_url) as at:
        with worker_process(database.dsn, redis_url, rules=RULES, armed=f"{step}=kill", **quick) as process:
            await eventually(lambda: at.redis.hexists(NAMES.state, "position"))
            await at.cached()
            await at.change("first")
            await eventually(lambda: process.poll() is not None, message=f"{step} was reached")
            assert process.returncode == -signal.SIGKILL
        async with running_worker(database.dsn, redis_url, rules=RULES, **QUICK):
            await at.refreshed("first")


async def test_a_key_taken_out_when_claimed_would_be_lost(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = RefreshSet.claim

    async def taken_out(self: RefreshSet) -> Claimed:
        claimed = await claim(self)
        await self.forget(claimed.keys)
        return claimed

    monkeypatch.setattr(RefreshSet, "claim", taken_out)
    async with (
        world(database, redis_url) as at,
        running_worker(database.dsn, redis_url, rules=RULES, **QUICK),
    ):
        await at.cached()
        with failpoints.armed("sql_worker.before_batch", error=RedisUnavailable("here")) as point:
            await at.change("first")
            await point.wait(seconds=30)
        await settled(at.redis)
        assert not await at.redis.exists(*(f"user:{n}:name" for n in USERS))

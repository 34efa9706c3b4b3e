"""Case 49: refresh workers are killed at work, and no budget is ever exceeded.

A call is counted before it is made. A worker that is killed in between has wasted it.
"""

import asyncio
import time

import pytest

from servers import Database, eventually
from workers import connected, redis_at, running_worker
from workers.refresh_stage import NAMES, counts_of, due
from workers.refresh_workers import LOADERS, RULES, refresh_workers

SCHEMA = """
create table public.profiles (id bigint primary key, name text);
select unstale.watch('public.profiles', '{id}');
"""
USERS, ROUNDS, TOTAL, EACH = 12, 4, 30, 4
KEYS = [f"user:{n}:greeting" for n in range(USERS)]
COUNTING = LOADERS.replace(
    '        await redis.incr("test:calls")\n',
    '        await redis.hincrby("test:calls", refresh.fields["user_id"], 1)\n',
)


@pytest.mark.leaves_keys("test:.*")
async def test_a_budget_is_never_exceeded(database: Database, redis_url: str) -> None:
    assert COUNTING != LOADERS
    rules = RULES + f'budget = {{ total = "{TOTAL}/d", user_id = "{EACH}/d" }}\n'
    began = time.time()
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await redis.mset({f"test:name:{n}": "Ada" for n in range(USERS)})
        with refresh_workers(
            redis_url, 4, rules=rules, loaders=COUNTING, UNSTALE_REFRESH_TAKEOVER="1"
        ) as workers:
            async with running_worker(database.dsn, redis_url, rules=rules, refresh_takeover=1.0):

                async def heard() -> bool:
                    return int(await redis.zcard(NAMES.refresh_workers)) >= 4

                await eventually(heard, timeout=60)
                for round_ in range(ROUNDS):
                    await redis.delete("test:running")
                    await due(redis, *KEYS)
                    await eventually(lambda: redis.exists("test:running"), timeout=60)
                    workers.kill(round_)
                    workers.start(round_)
                    await asyncio.sleep(0.2)

                async def used_up() -> bool:
                    """More keys are due than there is budget for, and none of them waits."""
                    if not await redis.exists(NAMES.refresh):
                        await due(redis, *KEYS)
                    return (await counts_of(redis, rules_pattern())).get("over_budget", 0) >= USERS

                await eventually(used_up, timeout=120, message="the budget is used up")
            calls = [int(number) for number in (await redis.hgetall("test:calls")).values()]
    days = int(time.time() // 86_400 - began // 86_400) + 1  # a window ends at midnight
    assert sum(calls) <= days * TOTAL
    assert max(calls) <= days * EACH
    assert sum(calls) >= TOTAL - 4 * ROUNDS, "killed workers have wasted what they were about to call"


def rules_pattern() -> str:
    """Return the name of the refresh."""
    return "user:{user_id}:greeting"

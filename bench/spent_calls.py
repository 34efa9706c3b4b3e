"""The parts ``fingerprint`` and ``budget`` of ``values.py``: which calls of a loader are made.

``fingerprint``: 1,000 users' rows change once each, and 30 % of the changes alter what the loader reads.
``budget``: four refresh workers, one killed every 2 s, and more changes than the budgets allow calls; the
loader counts its own calls in Redis.
"""

import asyncio
import time
from typing import Any

import asyncpg
from harness import leads, servers
from redis.asyncio import Redis
from refresh_stage import GREETINGS, NAMES, SCHEMA, counted, help_comes, processes, settled, until

from unstale_worker.dev_servers import Stack

PATTERN = "user:{user_id}:greeting"
INPUTS = 'inputs = "select name from public.profiles where id = {user_id}"\n'
TOTAL, EACH = 400, 3
BUDGET = f'only_if_cached = false\nbudget = {{ total = "{TOTAL}/d", user_id = "{EACH}/d" }}\n'
KILL_EVERY = 2.0


async def measure(share: int) -> dict[str, Any]:
    """Both, each on servers of its own; ``share``: the part of the work that is done."""
    found: dict[str, Any] = {}
    async with servers(sql=SCHEMA) as running, Redis.from_url(running.redis_url) as redis:
        db = await asyncpg.connect(running.database_url)
        try:
            found["fingerprint"] = await saved_calls(running, redis, db, users=1_000 // share)
        finally:
            await db.close()
    async with servers(sql=SCHEMA) as running, Redis.from_url(running.redis_url) as redis:
        found["budget"] = await counted_calls(running, redis, seconds=20.0 if share == 1 else 8.0)
    return found


async def saved_calls(running: Stack, redis: Redis, db: asyncpg.Connection, *, users: int) -> dict[str, Any]:
    """Calls for one change of each of so many rows, three of ten of which alter the inputs."""
    with processes(running, GREETINGS + INPUTS) as workers:
        await leads(redis, process=workers.start())
        workers.start("--role", "refresh")
        await help_comes(redis, workers=1)
        keys = [f"user:{number}:greeting" for number in range(1, users + 1)]
        await redis.mset(dict.fromkeys(keys, b"{}"))
        await db.execute("update public.profiles set version = version + 1 where id <= $1", users)
        await until(lambda: refreshed(redis, users))
        await until(lambda: settled(redis))
        filled_by: float = (await redis.time())[0] + 1

        async def later() -> bool:
            """A change that commits now is known to have committed after every fill."""
            return float(await redis.hget(NAMES.state, "read_at") or 0) / 1000 > filled_by

        await until(later)
        before = await counted(redis)
        for number in range(1, users + 1):
            alters = number % 10 < 3
            await db.execute(
                "update public.profiles set version = version + 1, name = case when $2 then name || '!' else "
                "name end where id = $1",
                number,
                alters,
            )
        await until(lambda: refreshed(redis, 2 * users))
        await until(lambda: settled(redis))
        after = await counted(redis)
    calls = after[f"calls:{PATTERN}"] - before[f"calls:{PATTERN}"]
    return {"changes": users, "calls": calls, "call_share": round(calls / users, 3)}


async def refreshed(redis: Redis, number: int) -> bool:
    """Return True once so many values were loaded or stored again."""
    counts = await counted(redis)
    return counts.get("filled", 0) + counts.get("unchanged", 0) >= number


async def counted_calls(running: Stack, redis: Redis, *, seconds: float) -> dict[str, Any]:
    """Calls beyond the budgets, of all keys and of each user, while workers are killed."""
    began = time.time()
    rules = GREETINGS.replace("bench_loaders:greeting", "bench_loaders:counted") + BUDGET
    with processes(running, rules) as workers:
        await leads(redis, process=workers.start())
        four = [workers.start("--role", "refresh") for _ in range(4)]
        await help_comes(redis, workers=4)
        end, kill_at, kills = time.monotonic() + seconds, time.monotonic() + KILL_EVERY, 0
        keys = [f"user:{number}:greeting" for number in range(200)]
        refused = f"over_budget:{PATTERN}"
        while time.monotonic() < end or not (await counted(redis)).get(refused):
            await redis.unlink(*keys)
            await redis.zadd(NAMES.refresh, {key: time.time() * 1000 for key in keys}, nx=True)
            if time.monotonic() > kill_at:
                victim = kills % 4
                four[victim].kill()
                four[victim].wait()
                four[victim] = workers.start("--role", "refresh")
                kills, kill_at = kills + 1, kill_at + KILL_EVERY
            await asyncio.sleep(0.1)
        counts = await counted(redis)
    made: Any = await redis.hvals("bench:calls")
    calls = list(map(int, made))
    days = int(time.time() // 86_400 - began // 86_400) + 1  # a window ends at midnight
    over = max(0, sum(calls) - days * TOTAL) + sum(max(0, each - days * EACH) for each in calls)
    return {"over": over, "calls": sum(calls), "budget": TOTAL, "kills": kills, "refused": counts[refused]}

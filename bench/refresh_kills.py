"""The part ``killed_workers`` of ``refresh.py``: wrong values after refresh workers were killed at work."""

import asyncio
import json
import random
import time
from itertools import pairwise

import asyncpg
from harness import leads
from redis.asyncio import Redis
from refresh_stage import GREETINGS, counted, help_comes, processes, settled, until

from unstale_worker.dev_servers import Stack


async def killed_workers(
    running: Stack, redis: Redis, db: asyncpg.Connection, *, seconds: float
) -> dict[str, float]:
    users = range(1, 101)
    fills: dict[str, list[int]] = {}
    with processes(running, GREETINGS, seconds=0.3) as workers:
        await leads(redis, process=workers.start())
        four = [workers.start("--role", "refresh") for _ in range(4)]
        await help_comes(redis, workers=4)
        await redis.mset({f"user:{n}:greeting": b'{"version":-1}' for n in users})
        following = asyncio.create_task(follow_fills(running, fills))
        end, kill_at, kills, changes = time.monotonic() + seconds, time.monotonic() + 2.5, 0, 0
        while time.monotonic() < end:
            await db.execute(
                "update public.profiles set version = version + 1 where id = $1", random.choice(users)
            )
            changes += 1
            if time.monotonic() > kill_at:
                victim = kills % 4
                four[victim].kill()
                four[victim].wait()
                four[victim] = workers.start("--role", "refresh")
                kills, kill_at = kills + 1, kill_at + 5.0
            await asyncio.sleep(0.02)
        await until(lambda: settled(redis), seconds=180)
        counts = await counted(redis)

        async def all_seen() -> bool:
            return sum(map(len, fills.values())) >= counts["filled"]

        await until(all_seen)
        following.cancel()
        await asyncio.wait([following])
        rows = await db.fetch("select id, version from public.profiles where id <= 100")
        versions = {row["id"]: row["version"] for row in rows}
        wrong = 0
        for number in users:
            value = await redis.get(f"user:{number}:greeting")
            stands = None if value is None else json.loads(value)["version"]
            wrong += stands != versions[number] and not (stands == -1 and versions[number] == 0)
    return {
        "stale_keys": wrong,
        "duplicate_fills": sum(a == b for seen in fills.values() for a, b in pairwise(seen)),
        "fills": counts["filled"],
        "overtaken": counts.get("overtaken", 0),
        "changes": changes,
        "kills": kills,
    }


async def follow_fills(running: Stack, fills: dict[str, list[int]]) -> None:
    """Collect every value that is stored for a greeting; MONITOR shows the commands of scripts."""
    async with Redis.from_url(running.redis_url, socket_timeout=None) as redis, redis.monitor() as monitor:
        async for command in monitor.listen():
            parts = command["command"].split(" ", 2)
            if parts[0] == "SET" and parts[1].endswith(":greeting") and '"version":' in parts[2]:
                version = parts[2].split('"version":')[1].split("}")[0]
                fills.setdefault(parts[1], []).append(int(version))

"""The part ``python`` of ``refresh.py``: what a refresh by a Python loader costs that does nothing."""

import asyncio
import time

from harness import leads
from redis.asyncio import Redis
from refresh_stage import GREETINGS, NAMES, help_comes, processes, settled, until

from unstale_worker.dev_servers import Stack


async def nothing_to_load(running: Stack, redis: Redis, *, jobs: int) -> dict[str, float]:
    """So many keys that are due at once, one refresh worker, and a loader with ``concurrency = 16``."""
    with processes(running, GREETINGS) as workers:
        await leads(redis, process=workers.start())
        workers.start("--role", "refresh")
        await help_comes(redis, workers=1)
        await asyncio.sleep(2.0)  # the leader leaves the loaders to it
        now = time.time() * 1000
        began = time.perf_counter()
        await redis.zadd(NAMES.refresh, {f"user:{n}:greeting": now for n in range(jobs)})
        await until(lambda: settled(redis))
        refreshed = time.perf_counter() - began
    return {"refresh_ms": 1000 * refreshed / jobs, "refreshes_per_s": jobs / refreshed}

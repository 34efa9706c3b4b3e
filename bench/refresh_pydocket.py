"""The part ``pydocket`` of ``refresh.py``: what a job costs that does nothing."""

import asyncio
import time
from datetime import timedelta
from typing import Any

from harness import leads
from redis.asyncio import Redis
from refresh_stage import GREETINGS, NAMES, help_comes, processes, settled, until

from unstale_worker.dev_servers import Stack


async def pydocket(running: Stack, redis: Redis, *, jobs: int) -> dict[str, float]:
    """A job that does nothing, in pydocket alone, as a refresh, and what Redis Streams themselves need."""
    from docket import Docket, Worker

    async def nothing(key: str) -> None:
        pass

    async with Docket(name="bench", url=running.redis_url, execution_ttl=timedelta(0)) as docket:
        docket.register(nothing, names=["nothing"])
        await docket.add_many(docket.call("nothing", key=str(n))(key=str(n)) for n in range(jobs))
        async with Worker(
            docket, concurrency=32, minimum_check_interval=timedelta(milliseconds=50)
        ) as worker:
            began = time.perf_counter()
            await worker.run_until_finished()
            alone = time.perf_counter() - began
    limit = await streams_alone(redis, jobs=jobs)
    with processes(running, GREETINGS) as workers:
        await leads(redis, process=workers.start())
        workers.start("--role", "refresh")
        await help_comes(redis, workers=1)
        await asyncio.sleep(2.0)  # the leader stands back
        now = time.time() * 1000
        began = time.perf_counter()
        await redis.zadd(NAMES.refresh, {f"user:{n}:greeting": now for n in range(jobs)})
        await until(lambda: settled(redis))
        refreshed = time.perf_counter() - began
    return {
        "job_ms": 1000 * alone / jobs,
        "jobs_per_s": jobs / alone,
        "streams_limit_ms": 1000 * limit / jobs,
        "refresh_ms": 1000 * refreshed / jobs,
        "refreshes_per_s": jobs / refreshed,
    }


async def streams_alone(redis: Redis, *, jobs: int) -> float:
    """Seconds to take each message from a group and acknowledge it, 32 at a time."""
    await redis.xgroup_create("bench:stream", "bench", mkstream=True)
    for number in range(jobs):
        await redis.xadd("bench:stream", {"key": str(number)})
    began, left = time.perf_counter(), jobs

    async def take() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            answer: Any = await redis.xreadgroup("bench", "me", {"bench:stream": ">"}, count=1)
            ((_, ((message, _),)),) = answer
            await redis.xack("bench:stream", "bench", message)

    await asyncio.gather(*(take() for _ in range(32)))
    await redis.delete("bench:stream")
    return time.perf_counter() - began

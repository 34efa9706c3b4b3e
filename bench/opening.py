"""How long a cache takes from opening to attached, beside what bare redis-py takes to get as far.

The floor opens two connections: one reads the state and the rules, the other subscribes. It checks nothing.
Each round opens each of them once, so that a noisy machine disturbs all alike.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from harness import RULES, arguments, finish, leads, percentile, run, servers, worker
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import unstale.sync
from unstale import Cache
from unstale.protocol.names import Names

ROUNDS = 300
KEY = "user:42:profile"


async def opened(url: str) -> None:
    """Open a cache and close it; it must be attached, and not by a watermark that it waited for."""
    async with Cache.from_env(env_file=None, redis_url=url) as cache:
        if not cache.attached:
            raise SystemExit("a cache was opened and not attached")


async def opened_sync(url: str) -> None:
    """The same with the cache of threads."""

    def work() -> None:
        with unstale.sync.Cache.from_env(env_file=None, redis_url=url) as cache:
            if not cache.attached:
                raise SystemExit("a cache was opened and not attached")

    await asyncio.to_thread(work)


async def floor(url: str) -> None:
    """Connect, read and subscribe with redis-py alone."""
    names = Names()
    async with Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as redis, redis.pubsub() as channel:
        await channel.subscribe(names.channel)
        await channel.get_message(timeout=5.0)
        async with redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(names.state)
            pipe.get(names.rules)
            await pipe.execute()


async def timed(work: Callable[[str], Awaitable[None]], url: str) -> tuple[float, float]:
    """Milliseconds of the clock and of this process' CPU, opening and closing together."""
    begun, used = time.perf_counter(), time.process_time()
    await work(url)
    return (time.perf_counter() - begun) * 1e3, (time.process_time() - used) * 1e3


async def measure(url: str, rounds: int) -> dict[str, Any]:
    """All three in turns."""
    works = {"cache": opened, "sync_cache": opened_sync, "bare_redis_py": floor}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            found = await timed(work, url)
            if number:  # the first one loads scripts and modules
                times[name].append(found)
    figures: dict[str, Any] = {
        name: {
            "median_ms": round(statistics.median(clock for clock, _ in found), 2),
            "p99_ms": round(percentile([clock for clock, _ in found], 0.99), 2),
            "cpu_ms": round(statistics.median(cpu for _, cpu in found), 2),
        }
        for name, found in times.items()
    }
    figures["ratio"] = round(figures["cache"]["median_ms"] / figures["bare_redis_py"]["median_ms"], 2)
    return figures


async def main() -> None:
    options = arguments(__doc__ or "", repeats=1)
    rounds = ROUNDS // 10 if options.quick else ROUNDS
    async with servers() as running, Redis.from_url(running.redis_url) as redis:
        with worker(running, rules=RULES) as process:
            await leads(redis, process=process)
            figures = await measure(running.redis_url, rounds)
    finish("opening", figures, as_json=options.json, repeats=rounds)


if __name__ == "__main__":
    run(main)

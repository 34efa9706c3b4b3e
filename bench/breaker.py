"""What a read costs more while Redis is away, and what failpoints cost that nobody armed.

Redis hangs (SIGSTOP, nobody is told) while the agent is still attached, which is the worst that a breaker
meets: every read of what memory does not hold would ask it. Then it is killed. The peer is the loader alone.
"""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from harness import arguments, finish, percentile, run
from hits import PROFILE, begin_history, keep_fresh
from redis.asyncio import Redis

from unstale import Cache
from unstale.protocol.codec import encode, loads
from unstale.protocol.names import Names
from unstale.runtime import failpoints
from unstale.settings import AgentSettings
from unstale_worker.dev_servers import EmbeddedValkey

READS: Final = 2_000
POINT_LOOPS: Final = 1_000_000
MAX_SILENCE: Final = 3_600.0
"""Seconds; so long that the agent stays attached while Redis hangs."""


async def load() -> dict[str, Any]:
    """A loader that answers at once."""
    return PROFILE


async def loader_alone(_: str) -> object:
    """What the caller would have without any cache: the loader, and the copy that a reader gets."""
    return loads(encode("", await load()))


async def microseconds(read: Callable[[str], Awaitable[object]], keys: list[str]) -> list[float]:
    """Microseconds of each read, one after the other."""
    taken = []
    for key in keys:
        began = time.perf_counter()
        await read(key)
        taken.append((time.perf_counter() - began) * 1e6)
    return taken


async def added(cache: Cache, name: str, repeats: int) -> dict[str, float]:
    """What each read of a key that is cached nowhere costs more than its loader, in microseconds."""
    alone: list[float] = []
    ours: list[float] = []
    for repeat in range(repeats):
        keys = [f"user:{name}-{repeat}-{number}:profile" for number in range(READS)]
        alone += await microseconds(loader_alone, keys)
        ours += await microseconds(lambda key: cache.get_or_load(key, load), keys)
    base = statistics.median(alone)
    return {
        "loader_us": round(base, 1),
        "added_us": round(statistics.median(ours) - base, 1),
        "added_p99_us": round(percentile(ours, 0.99) - base, 1),
        "slowest_ms": round(max(ours) / 1000, 2),
    }


async def points(cache: Cache, repeats: int) -> dict[str, float]:
    """Failpoints that nobody armed: how many a load and fill passes, and what they cost of it."""
    names = [name for name in failpoints.POINTS if name.startswith(("reader.", "writer."))]
    with ExitStack() as stack:
        armed = [stack.enter_context(failpoints.armed(name)) for name in names]
        await cache.get_or_load("user:counted:profile", load)
        passed = sum(point.hits for point in armed)
    assert not failpoints.on
    fills: list[float] = []
    for repeat in range(repeats):
        keys = [f"user:fill-{repeat}-{number}:profile" for number in range(READS // 4)]
        fills += await microseconds(lambda key: cache.get_or_load(key, load), keys)
    looks = min(looked_at() for _ in range(repeats)) - min(nothing() for _ in range(repeats))
    fill = statistics.median(fills)
    return {
        "passed_by_a_fill": float(passed),
        "each_ns": round(looks, 1),
        "fill_us": round(fill, 1),
        "percent_of_a_fill": round(100 * passed * looks / 1000 / fill, 4),
    }


def looked_at() -> float:
    """Nanoseconds of one turn of a loop with a point in it."""
    began = time.thread_time_ns()
    for _ in range(POINT_LOOPS):
        if failpoints.on:
            raise AssertionError
    return (time.thread_time_ns() - began) / POINT_LOOPS


def nothing() -> float:
    """Nanoseconds of one turn of the loop alone."""
    began = time.thread_time_ns()
    for _ in range(POINT_LOOPS):
        pass
    return (time.thread_time_ns() - began) / POINT_LOOPS


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """The process does not answer meanwhile."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Everything, on a Valkey of its own."""
    async with EmbeddedValkey() as valkey:
        names = Names()
        redis: Redis = Redis.from_url(valkey.url)
        await begin_history(redis, names)
        fresh = asyncio.create_task(keep_fresh(redis, names))
        settings = AgentSettings.from_env(
            env_file=None, redis_url=valkey.url, max_silence=MAX_SILENCE, redis_timeout=0.5
        )
        try:
            async with Cache(settings) as cache:
                if not cache.attached:
                    raise SystemExit("the cache did not attach")
                results = {"failpoints": await points(cache, repeats)}
                fresh.cancel()
                await asyncio.gather(fresh, return_exceptions=True)
                with stopped(valkey.pid):
                    (first,) = await microseconds(
                        lambda key: cache.get_or_load(key, load), ["user:0:profile"]
                    )
                    results["redis_hangs"] = {"first_read_ms": round(first / 1000, 1)}
                    results["redis_hangs"] |= await added(cache, "hangs", repeats)
                    if not cache.attached:
                        raise SystemExit("the cache detached: Redis was not even asked")
                await valkey.kill()
                await asyncio.sleep(0.5)
                if cache.attached:
                    raise SystemExit("the agent did not notice that Redis is gone")
                results["redis_away"] = await added(cache, "away", repeats)
                return results
        finally:
            fresh.cancel()
            await asyncio.gather(fresh, return_exceptions=True)
            await redis.aclose()


async def main() -> None:
    options = arguments(__doc__ or "", repeats=10)
    repeats = max(1, options.repeats // 5) if options.quick else options.repeats
    finish("breaker", await measure(repeats), as_json=options.json, repeats=repeats)


if __name__ == "__main__":
    run(main)

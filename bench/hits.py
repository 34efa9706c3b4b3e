"""What a hit costs: near cache against orjson and a dict, Redis against redis-py.

Each pair is measured in turns within the same repeats, so that a noisy machine disturbs both alike; ratios
are medians of the repeats' ratios. Where Redis takes part, the CPU time of this process is given beside the
time that passed: on a busy machine it is the better figure.
"""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from harness import arguments, finish, run
from redis.asyncio import Redis

import unstale.sync
from unstale import Cache
from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import Names
from unstale.settings import AgentSettings
from unstale_worker.dev_servers import EmbeddedValkey

KEY = "user:42:profile"
PROFILE: dict[str, Any] = {
    "id": 42,
    "name": "Ada Lovelace",
    "email": "ada.lovelace@example.com",
    "created_at": "2024-05-17T09:30:12.482913+00:00",
    "locale": "en-GB",
    "time_zone": "Europe/London",
    "stage": 3,
    "preferences": {
        "tone": "warm",
        "length": "short",
        "voice": "alto",
        "emoji": False,
        "topics": ["mathematics", "poetry"],
    },
    "interests": ["analytical engines", "music", "horses", "translation"],
    "scores": {"trust": 0.825, "engagement": 0.67, "curiosity": 0.99},
    "last_seen": "2026-11-20T21:04:55.120004+00:00",
}
NEAR_CALLS = 20_000
REDIS_CALLS = 400
CONCURRENT = 100
THREADS = 8


async def took(work: Awaitable[object], reads: int) -> tuple[float, float]:
    """Microseconds that a read took, and those of this process' CPU."""
    begun, cpu = time.perf_counter(), time.process_time()
    await work
    return (time.perf_counter() - begun) / reads * 1e6, (time.process_time() - cpu) / reads * 1e6


async def begin_history(redis: Redis, names: Names) -> None:
    """Stand in for a worker that has recovered: the state and the rules that agents look for."""
    rules = PublishedRules("bench", ("user:*:profile",), (("user:*:profile", 3600.0),))
    await redis.set(names.rules, rules.encode())
    await redis.hset(names.state, mapping={"epoch": "0" * 32, "last": "0"})


async def keep_fresh(redis: Redis, names: Names) -> None:
    """Watermarks, ten a second."""
    text = '{"v":1,"epoch":"' + "0" * 32 + '","last":0,"seen":"1:1:","lsn":"0/1","rules":"bench","age_ms":0}'
    while True:
        seconds, microseconds_of_it = await redis.time()
        await redis.hset(names.state, "applied_at", str(seconds * 1000 + microseconds_of_it // 1000))
        await redis.publish(names.channel, text)
        await asyncio.sleep(0.1)


async def near(cache: Cache, repeats: int) -> dict[str, dict[str, float]]:
    """Near hits: a private copy against `orjson.loads`, a shared object against an awaited dict get."""
    encoded, table = orjson.dumps(PROFILE), {KEY: PROFILE}

    async def peer(key: str) -> object:
        return table.get(key)

    names = {
        "cache": cache,
        "KEY": KEY,
        "load": _never,
        "peer": peer,
        "loads": orjson.loads,
        "encoded": encoded,
    }
    statements = {
        "orjson": "loads(encoded)",
        "private": "await cache.get_or_load(KEY, load)",
        "dict": "await peer(KEY)",
        "shared": "await cache.get_or_load(KEY, load, shared=True)",
    }
    samples: dict[str, list[float]] = {name: [] for name in statements}
    await cache.get_or_load(KEY, _profile)
    for _ in range(repeats):
        for name, statement in statements.items():
            samples[name].append(await _timed(statement, names))
            await asyncio.sleep(0.01)  # the subscriber has to live, too
    return {
        "near_private": _pair(samples["private"], samples["orjson"]),
        "near_shared": _pair(samples["shared"], samples["dict"]),
    }


async def threads(cache: Cache, blocking: unstale.sync.Cache, repeats: int) -> dict[str, float]:
    """Near hits of 8 threads through the blocking cache, against the asynchronous one in one task."""

    def reads() -> None:
        for _ in range(NEAR_CALLS):
            blocking.get_or_load(KEY, _never)

    def all_threads() -> float:
        with ThreadPoolExecutor(THREADS) as pool:
            begun = time.process_time()
            for ended in [pool.submit(reads) for _ in range(THREADS)]:
                ended.result()
            return (time.process_time() - begun) / NEAR_CALLS / THREADS * 1e6

    ours: list[float] = []
    theirs: list[float] = []
    await asyncio.to_thread(blocking.get_or_load, KEY, _never)
    for _ in range(repeats):
        await cache.get_or_load(KEY, _never)
        theirs.append(
            await _timed("await cache.get_or_load(KEY, load)", {"cache": cache, "KEY": KEY, "load": _never})
        )
        ours.append(await asyncio.to_thread(all_threads))
    return _pair(ours, theirs)


async def alone(cache: Cache, redis: Redis, repeats: int) -> dict[str, float]:
    """Redis hits one after the other, against redis-py's GET and orjson.loads."""
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    drop = cache.inspect().local.near.drop  # the near cache would answer otherwise

    async def hits() -> None:
        for _ in range(REDIS_CALLS):
            drop(KEY)
            await cache.get_or_load(KEY, _never)

    async def peer() -> None:
        for _ in range(REDIS_CALLS):
            orjson.loads(await redis.get(KEY) or b"")

    for _ in range(repeats):
        theirs.append(await took(peer(), REDIS_CALLS))
        ours.append(await took(hits(), REDIS_CALLS))
    times, cpu = (_pair([each[n] for each in ours], [each[n] for each in theirs]) for n in (0, 1))
    return times | {f"cpu_{name}": figure for name, figure in cpu.items()}


async def concurrent(cache: Cache, redis: Redis, repeats: int) -> dict[str, float]:
    """100 readers at once, each with its own keys, against redis-py's pool."""
    keys = [f"user:{number}:profile" for number in range(CONCURRENT)]
    encoded = orjson.dumps(PROFILE)
    await redis.mset(dict.fromkeys(keys, encoded))
    for key in keys:
        await redis.expire(key, 3600)
    drop = cache.inspect().local.near.drop
    each = REDIS_CALLS // 20

    async def reader(key: str) -> None:
        for _ in range(each):
            drop(key)
            await cache.get_or_load(key, _never)

    async def peer(key: str) -> None:
        for _ in range(each):
            orjson.loads(await redis.get(key) or b"")

    async def all_of(work: Callable[[str], Awaitable[None]]) -> tuple[float, float]:
        return await took(asyncio.gather(*map(work, keys)), CONCURRENT * each)

    await all_of(peer)  # opens the pool's connections
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for _ in range(repeats):
        theirs.append(await all_of(peer))
        ours.append(await all_of(reader))
    us, cpu = map(list, zip(*ours, strict=True))
    peer_us, peer_cpu = map(list, zip(*theirs, strict=True))
    return {
        "reads_per_s": round(1e6 / statistics.median(us)),
        "peer_reads_per_s": round(1e6 / statistics.median(peer_us)),
        "throughput_ratio": round(_ratio(peer_us, us), 2),
        "cpu_us": round(statistics.median(cpu), 1),
        "cpu_peer_us": round(statistics.median(peer_cpu), 1),
        "cpu_ratio": round(_ratio(peer_cpu, cpu), 2),
    }


async def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Everything, on a Valkey of its own."""
    async with EmbeddedValkey() as valkey:
        names = Names()
        redis: Redis = Redis.from_url(valkey.url)
        voice: Redis = Redis.from_url(valkey.url)  # the readers take every connection of the other
        await begin_history(redis, names)
        fresh = asyncio.create_task(keep_fresh(voice, names))
        try:
            async with Cache(AgentSettings.from_env(env_file=None, redis_url=valkey.url)) as cache:
                if not cache.attached:
                    raise SystemExit("the cache did not attach: its hits would be misses")
                gc.freeze()
                results = await near(cache, repeats)
                with_threads = unstale.sync.Cache(cache.settings)
                await asyncio.to_thread(with_threads.open)
                results["near_threads"] = await threads(cache, with_threads, repeats)
                await asyncio.to_thread(with_threads.close)
                results["redis"] = await alone(cache, redis, repeats)
                results["redis_100"] = await concurrent(cache, redis, repeats)
                if not cache.attached:
                    raise SystemExit("the cache detached on the way: the figures are not those of hits")
                return results
        finally:
            fresh.cancel()
            await asyncio.gather(fresh, return_exceptions=True)
            await redis.aclose()
            await voice.aclose()


async def _never() -> object:
    raise AssertionError("a hit loads nothing")


async def _profile() -> object:
    return PROFILE


async def _timed(statement: str, names: dict[str, object]) -> float:
    """Microseconds of a statement as it stands in a caller's code, with no call around it.

    Of this thread's own time: nothing here waits, and whoever else runs on the machine is not measured.
    """
    source = f"async def run({', '.join(names)}):\n    for _ in range({NEAR_CALLS}):\n        {statement}\n"
    space: dict[str, Any] = {}
    exec(source, space)  # a call around the statement would cost more than the dict get that is measured
    begun = time.thread_time()
    await space["run"](*names.values())
    return (time.thread_time() - begun) / NEAR_CALLS * 1e6


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _pair(ours: list[float], theirs: list[float]) -> dict[str, float]:
    return {
        "us": round(statistics.median(ours), 3),
        "peer_us": round(statistics.median(theirs), 3),
        "time_ratio": round(_ratio(ours, theirs), 3),
    }


async def main() -> None:
    options = arguments(__doc__ or "", repeats=15)
    results = await measure(3 if options.quick else options.repeats)
    finish("hits", results, as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    run(main)

"""What tags cost, and what readers get from loaders that are slow or fail.

Tags: invalidating one with few and with many values in Redis, and reading a value under one.
Values under the tag are written in bulk, as the agent writes them. One value is read before each
invalidation, so that the tag's record is there. Both servers are asked in turns, and so are both kinds of
reads: a noisy machine disturbs each alike.

Slow loaders: how long readers wait whose loader takes far longer than their ``soft_timeout``. Failing ones:
how many reads fail within the bound of ``stale_if_error``, and how many are answered past it.

Calls: how many unchanged inputs save, and how many are made beyond a budget.
"""

import asyncio
import statistics
import time
from typing import Any

import sealed_hits
import spent_calls
from harness import arguments, finish, run
from hits import PROFILE, REDIS_CALLS, begin_history, took
from redis.asyncio import Redis

from unstale import Cache
from unstale.protocol.names import TAGGED, Names
from unstale.protocol.tags import record
from unstale.settings import AgentSettings
from unstale_worker.dev_servers import EmbeddedValkey

FEW, MANY = 10_000, 3_000_000
INVALIDATIONS = 300
TAG = "user:42:memories"
READ_KEY, PLAIN_KEY, TAGGED_KEY = "search:42:read", "search:42:plain", "search:42:tagged"
CHUNK = 10_000
SOFT_SECONDS, SLOW_READS = 0.3, 1_000
BOUND_SECONDS, DOWN_KEYS, DOWN_SECONDS = 5.0, 20, 8.0

BEAT = """
local last, time = redis.call('HGET', KEYS[1], 'last'), redis.call('TIME')
redis.call('HSET', KEYS[1], 'applied_at', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
redis.call('PUBLISH', ARGV[1], '{"v":1,"epoch":"' .. string.rep('0', 32) .. '","last":' .. last
  .. ',"seen":"1:1:","lsn":"0/1","rules":"bench","age_ms":0}')
"""
"""A watermark that names the newest log entry."""
STORE = """
for number = ARGV[1], ARGV[2] do redis.call('SET', 'search:42:' .. number, ARGV[3], 'PX', 3600000) end
"""
"""Values that an agent has stored under the tag."""


async def beats(redis: Redis) -> None:
    """Stand in for a worker: watermarks, ten a second."""
    names = Names()
    while True:
        await redis.eval(BEAT, 1, names.state, names.channel)
        await asyncio.sleep(0.1)


async def search() -> object:
    """The value that is read before each invalidation."""
    return 1


async def profile() -> object:
    """The value whose reads are timed."""
    return PROFILE


async def filled(cache: Cache, redis: Redis, values: int) -> None:
    """Store ``values`` values under the tag."""
    for _ in range(6_000):
        if cache.attached:
            break
        await asyncio.sleep(0.01)
    await cache.get_or_load(READ_KEY, search, tags=[TAG])
    version: Any = await redis.get(record(TAG))
    content = TAGGED + version + f":{len(TAG)}:{TAG}\n1".encode()
    for start in range(0, values, CHUNK):
        await redis.eval(STORE, 0, str(start), str(min(start + CHUNK, values) - 1), content)
    if await cache.get("search:42:0") != 1:
        raise SystemExit("a value that was written in bulk is not valid")


async def invalidations(caches: dict[str, Cache], times: int) -> dict[str, float]:
    """Median milliseconds of `invalidate_tag` on each server."""
    samples: dict[str, list[float]] = {name: [] for name in caches}
    for number in range(times + 10):
        for name, cache in sorted(caches.items(), reverse=bool(number % 2)):
            await cache.get_or_load(READ_KEY, search, tags=[TAG])
            await asyncio.sleep(0.002)  # what the other server has published arrives
            begun = time.perf_counter()
            await cache.invalidate_tag(TAG)
            if number >= 10:
                samples[name].append((time.perf_counter() - begun) * 1e3)
    for name, cache in caches.items():
        if await cache.get("search:42:0") is not None:
            raise SystemExit(f"{name}: a value is still valid")
    return {name: round(statistics.median(found), 4) for name, found in samples.items()}


async def reads(cache: Cache, repeats: int) -> dict[str, float]:
    """Redis hits one after the other, of a value under a tag and of one without. No rule owns either key."""
    drop = cache.inspect().local.near.drop  # the near cache would answer otherwise
    await cache.get_or_load(PLAIN_KEY, profile)
    await cache.get_or_load(TAGGED_KEY, profile, tags=[TAG])

    async def hits(key: str, tags: list[str] | None) -> None:
        for _ in range(REDIS_CALLS):
            drop(key)
            await cache.get_or_load(key, search, tags=tags)

    plain, tagged = list[tuple[float, float]](), list[tuple[float, float]]()
    for _ in range(repeats):
        plain.append(await took(hits(PLAIN_KEY, None), REDIS_CALLS))
        tagged.append(await took(hits(TAGGED_KEY, [TAG]), REDIS_CALLS))
    if cache.counters().loads != 3:  # these two, and the one of `filled`
        raise SystemExit("a read was no hit")
    return {
        "read_us": round(statistics.median(each[0] for each in tagged), 1),
        "untagged_read_us": round(statistics.median(each[0] for each in plain), 1),
        "read_time_ratio": round(
            statistics.median(a[0] / b[0] for a, b in zip(tagged, plain, strict=True)), 2
        ),
        "read_cpu_ratio": round(
            statistics.median(a[1] / b[1] for a, b in zip(tagged, plain, strict=True)), 2
        ),
    }


async def spare_values(cache: Cache, redis: Redis, keys: list[str], *, bound: float) -> None:
    """Load values of these keys, which then expire."""
    for key in keys:
        await cache.get_or_load(key, profile, stale_if_error=bound)
    for key in keys:
        await redis.unlink(key)
        cache.inspect().local.near.drop(key)


async def slow_reads(cache: Cache, redis: Redis, reads: int) -> dict[str, float]:
    """Milliseconds that readers wait for an older value: the 99th percentile."""
    keys = [f"slow:{number}" for number in range(reads)]
    await spare_values(cache, redis, keys, bound=3600)
    samples: list[float] = []
    ended = asyncio.Event()

    async def slow() -> object:
        await ended.wait()
        return PROFILE

    async def read(key: str) -> None:
        begun = time.perf_counter()
        await cache.get_or_load(key, slow, soft_timeout=SOFT_SECONDS, stale_if_error=3600)
        samples.append((time.perf_counter() - begun) * 1e3)

    for start in range(0, reads, 20):
        await asyncio.gather(*map(read, keys[start : start + 20]))
    if cache.counters().slow_hits != reads:
        raise SystemExit("a read was not answered with an older value")
    ended.set()
    await asyncio.gather(*(cache.get_or_load(key, slow) for key in keys))
    p99 = statistics.quantiles(samples, n=100)[98]
    return {"p99_ms": round(p99, 1), "beyond_ms": round(p99 - SOFT_SECONDS * 1e3, 1)}


async def failing_reads(cache: Cache, redis: Redis) -> dict[str, float]:
    """Reads of keys whose loader fails for longer than the bound."""
    keys = [f"failing:{number}" for number in range(DOWN_KEYS)]
    reads = failed = late = 0

    async def fails() -> object:
        raise ConnectionError

    async def outage(key: str) -> None:
        nonlocal reads, failed, late
        await cache.get_or_load(key, profile, ttl=0.5, stale_if_error=BOUND_SECONDS)
        cache.inspect().local.near.drop(key)
        begun, after = time.monotonic(), 0.0
        while after < DOWN_SECONDS:
            before = time.monotonic() - begun
            try:
                await cache.get_or_load(key, fails, stale_if_error=BOUND_SECONDS)
                answered = True
            except ConnectionError:
                answered = False
            after = time.monotonic() - begun
            reads += 1
            # The TTL is shortened at random, by a tenth at most; it began before `begun`.
            failed += not answered and after < BOUND_SECONDS + 0.4
            late += answered and before > BOUND_SECONDS + 0.5
            await asyncio.sleep(0.02)

    await asyncio.gather(*map(outage, keys))
    return {"reads": reads, "failed_within": failed, "answered_beyond": late}


async def loaders(share: int) -> dict[str, Any]:
    """The figures of slow and of failing loaders, on a server of their own."""
    async with EmbeddedValkey() as server:
        redis: Redis = Redis.from_url(server.url)
        names = Names()
        await begin_history(redis, names)
        await redis.hset(names.state, "run", (await redis.info("replication"))["master_replid"])
        voice = asyncio.create_task(beats(redis))
        try:
            async with Cache(AgentSettings.from_env(env_file=None, redis_url=server.url)) as cache:
                for _ in range(6_000):
                    if cache.attached:
                        break
                    await asyncio.sleep(0.01)
                return {
                    "soft_timeout": await slow_reads(cache, redis, SLOW_READS // share),
                    "stale_if_error": await failing_reads(cache, redis),
                }
        finally:
            voice.cancel()
            await asyncio.gather(voice, return_exceptions=True)
            await redis.aclose()


async def measure(repeats: int, many: int, times: int) -> dict[str, Any]:
    """Everything, on two servers of its own."""
    async with EmbeddedValkey() as small, EmbeddedValkey() as large:
        clients = {name: Redis.from_url(server.url) for name, server in (("10k", small), ("3m", large))}
        names = Names()
        for client in clients.values():
            await begin_history(client, names)
            run_id = (await client.info("replication"))["master_replid"]
            await client.hset(names.state, "run", run_id)
        voices = [asyncio.create_task(beats(client)) for client in clients.values()]
        try:
            async with (
                Cache(AgentSettings.from_env(env_file=None, redis_url=small.url)) as few_cache,
                Cache(AgentSettings.from_env(env_file=None, redis_url=large.url)) as many_cache,
            ):
                await filled(few_cache, clients["10k"], FEW)
                await filled(many_cache, clients["3m"], many)
                figures: dict[str, Any] = await reads(few_cache, repeats)
                found = await invalidations({"10k": few_cache, "3m": many_cache}, times)
                figures |= {f"invalidate_ms_{name}": ms for name, ms in found.items()}
                return figures | {"values_3m": many}
        finally:
            for voice in voices:
                voice.cancel()
            await asyncio.gather(*voices, return_exceptions=True)
            for client in clients.values():
                await client.aclose()


async def main() -> None:
    options = arguments(__doc__ or "", repeats=7)
    share = 10 if options.quick else 1
    figures = await measure(options.repeats, MANY // share, INVALIDATIONS // share)
    crypto = await sealed_hits.measure(options.repeats)
    calls = await spent_calls.measure(share)
    found = {"tags": figures, **await loaders(share), "crypto": crypto, **calls}
    finish("values", found, as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    run(main)

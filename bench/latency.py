"""From the acknowledged commit until the key is gone from Redis and from the near caches of three agents.

Every changed key was cached beforehand by all three agents (processes of their own, like writer and worker);
each is changed once. Changes are due at fixed times, whether or not earlier ones are done. The limit measured
in the same run: NOTIFY to a listening asyncpg session and a SELECT of one row (``limit_p50_ms``).
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import asyncpg
from harness import arguments, finish, leads, medians, percentile, run, servers, worker
from redis.asyncio import Redis

from unstale import Cache
from unstale_worker.dev_servers import Stack

AGENTS = 3
WRITERS = 8
PROFILE = {"id": 0, "name": "Ada Lovelace", "bio": "x" * 380}


async def agent(redis_url: str, low: int, high: int) -> None:
    """Cache the keys, say so, then note when each is dropped from the near cache; report at end of input."""
    dropped: dict[str, float] = {}
    async with Cache.from_env(redis_url=redis_url, near_max_entries=200_000, redis_timeout=5.0) as cache:
        for start in range(low, high, 500):
            keys = [f"user:{number}:profile" for number in range(start, min(start + 500, high))]
            await asyncio.gather(*(cache.get_or_load(key, lambda: PROFILE, ttl=600) for key in keys))
        async with cache.subscribe("user:*") as events:

            async def follow() -> None:
                async for event in events:
                    now = time.monotonic()
                    for key in getattr(event, "keys", ()):
                        dropped.setdefault(key, now)

            following = asyncio.create_task(follow())
            held = (await cache.get_stats())["near_entries"]
            print(json.dumps({"held": held}), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            following.cancel()
            await asyncio.wait([following])
    print(json.dumps(dropped), flush=True)


async def writer(dsn: str, low: int, count: int, rate: float) -> None:
    """Change one row each 1/rate seconds; report when each commit was acknowledged."""
    committed: dict[str, float] = {}
    connections = [await asyncpg.connect(dsn) for _ in range(WRITERS)]
    statements = [
        await c.prepare("update public.profiles set version = version + 1 where id = $1") for c in connections
    ]
    for statement in statements:
        await statement.fetch(0)
    numbers = iter(range(low, low + count))
    began = time.monotonic() + 0.2

    async def write(statement: Any) -> None:
        for number in numbers:
            pause = began + (number - low) / rate - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            await statement.fetch(number)
            committed[f"user:{number}:profile"] = time.monotonic()

    await asyncio.gather(*(write(statement) for statement in statements))
    took = time.monotonic() - began
    for connection in connections:
        await connection.close()
    print(json.dumps({"committed": committed, "rate": count / took}), flush=True)


async def measure(running: Stack, rate: int, seconds: float, low: int) -> dict[str, float]:
    count = int(rate * seconds)
    agents = [child("agent", running.redis_url, low, low + count) for _ in range(AGENTS)]
    held = [json.loads(await line(process))["held"] for process in agents]
    assert min(held) >= count, f"the agents hold {held} of {count} keys"
    redis = Redis.from_url(running.redis_url)
    try:
        process = child("writer", running.database_url, low, count, rate)
        report = json.loads(await line(process))
        process.wait()
        await asyncio.sleep(0.5)
        drops = []
        for process in agents:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            drops.append(json.loads(await line(process)))
            process.wait()
        left = await redis.exists(*report["committed"])
        assert left == 0, f"{left} changed keys are still in Redis"
    finally:
        await redis.aclose()
    committed = report["committed"]
    missing = [key for key in committed if any(key not in dropped for dropped in drops)]
    assert not missing, f"{len(missing)} changes did not reach every agent"
    delays = [max(dropped[key] for dropped in drops) - at for key, at in committed.items()]
    return {
        "p50_ms": 1000 * max(0.0, percentile(delays, 0.5)),
        "p99_ms": 1000 * max(0.0, percentile(delays, 0.99)),
        "max_ms": 1000 * max(delays),
        "changes_per_s": report["rate"],
    }


async def limit(running: Stack) -> dict[str, float]:
    """What no outbox can beat: one NOTIFY delivered and one row selected, on an idle machine."""
    listener = await asyncpg.connect(running.database_url)
    speaker = await asyncpg.connect(running.database_url)
    arrived: asyncio.Queue[None] = asyncio.Queue()
    await listener.add_listener("bench", lambda *_: arrived.put_nowait(None))
    delays = []
    for _ in range(500):
        await speaker.execute("notify bench")
        began = time.monotonic()
        await arrived.get()
        await listener.fetchval("select version from public.profiles where id = 0")
        delays.append(time.monotonic() - began)
    await listener.close()
    await speaker.close()
    return {"limit_p50_ms": 1000 * percentile(delays, 0.5), "limit_p99_ms": 1000 * percentile(delays, 0.99)}


def child(role: str, *values: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--role", role, *map(str, values)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return await asyncio.get_running_loop().run_in_executor(None, process.stdout.readline)


async def main() -> None:
    options = arguments(__doc__ or "", repeats=3, seconds=10.0)
    seconds = options.seconds / 4 if options.quick else options.seconds
    runs: list[dict[str, Any]] = []
    async with servers() as running:
        connection = await asyncpg.connect(running.database_url)
        total = int((200 + 2_000) * seconds * options.repeats) + 10
        await connection.execute(
            "insert into public.profiles select g, 'somebody' from generate_series(0, $1::int) as g", total
        )
        await connection.execute("vacuum analyze public.profiles")
        await connection.close()
        redis = Redis.from_url(running.redis_url)
        with worker(running) as process:
            await leads(redis, process=process)
            low = 1
            for _ in range(options.repeats):
                figures: dict[str, Any] = {}
                for rate in (200, 2_000):
                    figures[str(rate)] = await measure(running, rate, seconds, low)
                    low += int(rate * seconds)
                figures |= {"limit": await limit(running)}
                runs.append(figures)
        await redis.aclose()
    finish("latency", medians(runs), as_json=options.json, repeats=options.repeats)


def as_child(arguments_: Sequence[str]) -> None:
    role, *values = arguments_
    if role == "agent":
        run(lambda: agent(values[0], int(values[1]), int(values[2])))
    else:
        run(lambda: writer(values[0], int(values[1]), int(values[2]), float(values[3])))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        as_child(sys.argv[2:])
    else:
        run(main)

"""The writer and the agents of `latency.py` and `waterfall.py`, each a process of its own."""

import asyncio
import json
import sys
import time
from typing import Any, Final

import asyncpg
from harness import end_of_input, run

from unstale import Cache

WRITERS: Final = 8
PROFILE: Final = {"id": 0, "name": "Ada Lovelace", "bio": "x" * 380}
UPDATES: Final = {
    "user": "update public.profiles set version = version + 1 where id = $1",
    "bare": "update bare.profiles set version = version + 1 where id = $1",
}


async def agent(redis_url: str, low: int, high: int) -> None:
    """Cache the keys, say how many, and note when each is dropped from the near cache until end of input."""
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
            print((await cache.get_stats())["near_entries"], flush=True)
            await end_of_input()
            following.cancel()
            await asyncio.wait([following])
    print(json.dumps(dropped), flush=True)


async def writer(dsn: str, chain: str, low: int, count: int, rate: float) -> None:
    """Change one row each 1/rate seconds, at fixed times; report when each commit was acknowledged."""
    committed: dict[str, float] = {}
    connections = [await asyncpg.connect(dsn) for _ in range(WRITERS)]
    statements = [await connection.prepare(UPDATES[chain]) for connection in connections]
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
            committed[f"{chain}:{number}:profile"] = time.monotonic()

    await asyncio.gather(*(write(statement) for statement in statements))
    took = time.monotonic() - began
    for connection in connections:
        await connection.close()
    print(json.dumps({"committed": committed, "rate": count / took}), flush=True)


if __name__ == "__main__":
    role, *values = sys.argv[1:]
    if role == "agent":
        run(lambda: agent(values[0], int(values[1]), int(values[2])))
    else:
        run(lambda: writer(values[0], values[1], int(values[2]), int(values[3]), float(values[4])))

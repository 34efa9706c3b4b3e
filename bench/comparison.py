"""Compare three systems: clients made for each call, with a pool, with a pool and a cache.

Supabase and OpenAI are a stand-in on this machine, over real HTTPS: 50 to 100 ms before an answer, 500 to
1,000 ms before a completion. Postgres, Valkey and the worker are real. With ``--write`` the figures go to
bench/results/comparison.json, from there into the plot and the tables of README.md and docs/performance.md.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import Any, Final

from comparison_day import day_of_traffic
from comparison_operations import operations
from comparison_pages import write_pages
from far_server import FarServer, far_server
from harness import arguments, finish, leads, machine, medians, servers, worker
from pools import clients, health, parallel, saved
from redis.asyncio import Redis

RESULTS: Final = Path(__file__).with_name("results") / "comparison.json"
RULES: Final = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:greeting_instructions"]
"""
AGAIN: Final = ".venv/bin/python bench/comparison.py --write"


async def cached_operations(server: FarServer, *, scale: float) -> dict[str, Any]:
    """`operations` with a real Postgres, Valkey and worker behind the cache."""
    async with servers() as running:
        redis: Any = Redis.from_url(running.redis_url)
        with worker(running, rules=RULES) as process:
            async with redis:
                await leads(redis, process=process)
            return await operations(server, running.redis_url, scale=scale)


async def one_run(server: FarServer, *, scale: float, seed: int) -> dict[str, Any]:
    """Every figure once."""
    found: dict[str, Any] = {"client": await clients(server, anew=10, pooled=10_000)}
    with server.trusted():
        found |= await cached_operations(server, scale=scale)
        found["parallel"] = await parallel(server, rounds=max(1, round(10 * scale)))
        found["network"] = await saved(server, sessions=max(4, round(40 * scale)))
        found["health"] = await health(server, seconds=max(1.0, 5 * scale))
    found["day"] = await day_of_traffic(seed=seed, scale=scale)
    return found


async def main() -> None:
    options = arguments(__doc__ or "", repeats=1, write=False, seed=1)
    began = time.monotonic()
    with far_server() as server:
        runs = [
            await one_run(server, scale=0.1 if options.quick else 1.0, seed=options.seed + number)
            for number in range(options.repeats)
        ]
    figures = medians(runs)
    finish("comparison", figures, as_json=options.json, repeats=options.repeats)
    if options.write:
        RESULTS.parent.mkdir(exist_ok=True)
        result = {"figures": figures, "machine": machine(), "repeats": options.repeats}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        for page in write_pages(RESULTS):
            print(f"written: {page}")
    print(f"took {time.monotonic() - began:.0f} s; to redo everything: {AGAIN}")


if __name__ == "__main__":
    asyncio.run(main())

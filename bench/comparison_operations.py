"""What one operation of an agent costs: in the original, with the pool, and with pool and cache."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from far_server import LATENCY_SECONDS, PROFILE, FarServer
from openai import AsyncOpenAI
from pools import KEY, ask, pool_for
from supabase import AsyncClientOptions, create_async_client

from unstale import Cache, ConnectionPool

Figures = dict[str, Any]
Work = Callable[[], Awaitable[object]]
MODEL_SECONDS = (0.5, 1.0)
"""What a greeting took in the original."""
SUPABASE_KEY = "sb_secret_bench"
COMPLETIONS, READS, WRITES = 3, 2, 1
"""What is done after a turn: facts, summary and mood by the model; two reads, and the state written."""


async def original_rows(server: FarServer) -> object:
    """A Supabase client made for one query, and thrown away."""
    http = httpx.AsyncClient()
    try:
        options = AsyncClientOptions(httpx_client=http)
        supabase = await create_async_client(server.url, SUPABASE_KEY, options)
        return (await supabase.table("profiles").select("*").eq("id", 1).execute()).data[0]
    finally:
        await http.aclose()


async def original_completion(server: FarServer) -> object:
    """An OpenAI client made for one completion, and thrown away."""
    async with AsyncOpenAI(api_key=KEY, base_url=f"{server.url}/v1") as openai:
        return await ask(openai)


async def pooled_rows(pool: ConnectionPool) -> object:
    supabase = await pool.supabase()
    return (await supabase.table("profiles").select("*").eq("id", 1).execute()).data[0]


async def pooled_completion(pool: ConnectionPool) -> object:
    return await ask(await pool.openai())


async def median_ms(work: Work, times: int) -> float:
    """Median milliseconds of running ``work`` one after the other."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


async def mean_ms(work: Work, times: int) -> float:
    """Mean milliseconds; for what is too short to be timed one by one."""
    began = time.perf_counter()
    for _ in range(times):
        await work()
    return (time.perf_counter() - began) / times * 1000


async def operations(server: FarServer, redis_url: str, *, scale: float) -> Figures:
    """Milliseconds of each operation; ``scale`` shortens everything (1: a full run)."""

    def times(full: int) -> int:
        return max(2, round(full * scale))

    await asyncio.to_thread(server.latency, LATENCY_SECONDS, completions=MODEL_SECONDS)
    near = Cache.from_env(env_file=None, redis_url=redis_url)
    far = Cache.from_env(env_file=None, redis_url=redis_url, near_max_entries=0)
    async with pool_for(server) as pool, near, far:
        await pool.warm()
        await asyncio.gather(pooled_rows(pool), pooled_completion(pool))
        profile = {
            "original_ms": await median_ms(lambda: original_rows(server), times(20)),
            "pool_ms": await median_ms(lambda: pooled_rows(pool), times(20)),
            **await hits(near, far, "user:1:profile", lambda: pooled_rows(pool), times=times),
        }

        async def greeting() -> object:
            return {"text": "Hello!", "answer": (await ask(await pool.openai())).model_dump()}

        greetings = {
            "original_ms": await median_ms(lambda: original_completion(server), times(9)),
            "pool_ms": await median_ms(lambda: pooled_completion(pool), times(9)),
            **await hits(near, far, "user:1:greeting_instructions", greeting, times=times),
        }
        background = {
            "original_ms": await median_ms(lambda: original_background(server), times(5)),
            "pool_ms": await median_ms(lambda: pooled_background(pool, lambda: pooled_rows(pool)), times(5)),
            "near_ms": await median_ms(
                lambda: pooled_background(
                    pool, lambda: near.get_or_load("user:1:profile", lambda: pooled_rows(pool))
                ),
                times(5),
            ),
        }
    return {"profile": profile, "greeting": greetings, "background": background}


async def hits(near: Cache, far: Cache, key: str, loader: Work, *, times: Callable[[int], int]) -> Figures:
    """Milliseconds of a hit in the near cache and, with the near cache off, in Redis."""
    await near.get_or_load(key, loader)
    await far.get_or_load(key, loader)
    figures = {
        "near_ms": await mean_ms(lambda: near.get_or_load(key, loader), times(20_000)),
        "redis_ms": await mean_ms(lambda: far.get_or_load(key, loader), times(3_000)),
    }
    counters = far.counters()
    if counters.redis_hits < times(3_000) or near.counters().near_hits < times(20_000):
        raise SystemExit("the hits were none: is the worker running?")
    return figures


async def original_background(server: FarServer) -> None:
    """One thing after the other, each with a client of its own."""
    for _ in range(COMPLETIONS):
        await original_completion(server)
    for _ in range(READS + WRITES):
        await original_rows(server)


async def pooled_background(pool: ConnectionPool, read: Work) -> None:
    """What the model needs is read first, then it is asked side by side; the write comes with its answers."""
    await asyncio.gather(*(read() for _ in range(READS)))
    await asyncio.gather(*(pooled_completion(pool) for _ in range(COMPLETIONS)))
    for _ in range(WRITES):
        await pooled_rows(pool)


assert len(str(PROFILE)) > 400  # about what a profile weighs

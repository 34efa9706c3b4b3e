"""What the connection pool saves against clients made for each call, and what it costs.

The server is a stand-in on this machine: real HTTPS, and 50 to 100 ms before each answer.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import httpx
from far_server import LATENCY_SECONDS, FarServer, far_server
from harness import arguments, cpu_seconds, finish, medians
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion
from supabase import AsyncClientOptions, create_async_client

from unstale import ConnectionPool

Figures = dict[str, Any]
KEY = "sk-bench"
OPERATIONS = 5
"""Side by side: profile, settings, state, memories, and a completion."""
HEALTH_SECONDS = 30.0
"""The interval the monitor has by default; the cost of one round is measured at a shorter one."""


def pool_for(server: FarServer, **more: Any) -> ConnectionPool:
    return ConnectionPool.from_env(
        env_file=None, openai_api_key=KEY, openai_base_url=f"{server.url}/v1",
        supabase_url=server.url, supabase_key="sb_secret_bench", **more,
    )  # fmt: skip


# --- making clients ---------------------------------------------------------------------------------


async def clients(server: FarServer, *, anew: int, pooled: int) -> Figures:
    """Milliseconds per OpenAI client: made anew as in the original, and from the pool after the first."""
    began = time.perf_counter()
    for _ in range(anew):
        await AsyncOpenAI(api_key=KEY, base_url=server.url).close()
    original = (time.perf_counter() - began) / anew
    began = time.perf_counter()
    for _ in range(anew):
        OpenAI(api_key=KEY, base_url=server.url).close()
    original_sync = (time.perf_counter() - began) / anew
    async with pool_for(server) as pool:
        began = time.perf_counter()
        await pool.openai()
        first = time.perf_counter() - began
        pool.openai_sync()
        began = time.perf_counter()
        for _ in range(pooled):
            await pool.openai()
        after = (time.perf_counter() - began) / pooled
        began = time.perf_counter()
        for _ in range(pooled):
            pool.openai_sync()
        after_sync = (time.perf_counter() - began) / pooled
    return {
        "original_ms": original * 1000,
        "original_sync_ms": original_sync * 1000,
        "first_ms": first * 1000,
        "pool_ms": after * 1000,
        "pool_sync_ms": after_sync * 1000,
    }


# --- five operations --------------------------------------------------------------------------------


def original_operations(server: FarServer) -> list[Callable[[], Awaitable[object]]]:
    """Each makes its client, uses it once and throws it away."""

    async def rows(table: str) -> object:
        http = httpx.AsyncClient()
        options = AsyncClientOptions(httpx_client=http)
        supabase = await create_async_client(server.url, "sb_secret_bench", options)
        try:
            return await supabase.table(table).select("*").execute()
        finally:
            await http.aclose()

    async def completion() -> object:
        async with AsyncOpenAI(api_key=KEY, base_url=f"{server.url}/v1") as openai:
            return await ask(openai)

    return [
        *(lambda table=table: rows(table) for table in ("profiles", "settings", "states", "memories")),
        completion,
    ]


def pooled_operations(pool: ConnectionPool) -> list[Callable[[], Awaitable[object]]]:
    async def rows(table: str) -> object:
        return await (await pool.supabase()).table(table).select("*").execute()

    async def completion() -> object:
        return await ask(await pool.openai())

    return [
        *(lambda table=table: rows(table) for table in ("profiles", "settings", "states", "memories")),
        completion,
    ]


async def ask(openai: AsyncOpenAI) -> ChatCompletion:
    return await openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])


async def one_by_one(operations: list[Callable[[], Awaitable[object]]]) -> float:
    began = time.perf_counter()
    for operation in operations:
        await operation()
    return time.perf_counter() - began


async def at_once(operations: list[Callable[[], Awaitable[object]]]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(operation() for operation in operations))
    return time.perf_counter() - began


async def parallel(server: FarServer, *, rounds: int) -> Figures:
    """Milliseconds for five operations that take equally long, and how many times faster they are.

    (Of five that take 50 to 100 ms each at random, the slowest alone takes about 92: four times at most.)
    """
    await asyncio.to_thread(server.latency, (0.075, 0.075))
    original = await average(rounds, lambda: one_by_one(original_operations(server)))
    async with pool_for(server) as pool:
        operations = pooled_operations(pool)
        await at_once(operations)
        sequential = await average(rounds, lambda: one_by_one(operations))
        together = await average(rounds, lambda: at_once(operations))
    await asyncio.to_thread(server.latency, LATENCY_SECONDS)
    return {
        "original_ms": original * 1000,
        "pool_sequential_ms": sequential * 1000,
        "pool_parallel_ms": together * 1000,
        "speedup": original / together,
        "speedup_within_the_pool": sequential / together,
    }


async def average(rounds: int, work: Callable[[], Awaitable[float]]) -> float:
    return sum([await work() for _ in range(rounds)]) / rounds


# --- connections, handshakes, look-ups --------------------------------------------------------------


@contextlib.contextmanager
def counted_lookups() -> Iterator[list[str]]:
    """Every look-up of a name in this process."""
    found: list[str] = []
    original = socket.getaddrinfo

    def counting(host: Any, *args: Any, **options: Any) -> Any:
        found.append(str(host))
        return original(host, *args, **options)

    socket.getaddrinfo = counting  # uvloop looks names up by itself, so this runs on asyncio's own loop
    try:
        yield found
    finally:
        socket.getaddrinfo = original


async def saved(server: FarServer, *, sessions: int) -> Figures:
    """Share of new connections (each with its TLS handshake) and of DNS look-ups that the pool saves.

    A session reads three tables, fetches a page and asks for a completion; four run at a time.
    """

    trusted = ssl.create_default_context(
        cafile=server.certificate
    )  # aiohttp reads SSL_CERT_FILE at its import

    async def run_all(session: Callable[[], Awaitable[None]]) -> tuple[int, int]:
        limit = asyncio.Semaphore(4)

        async def limited() -> None:
            async with limit:
                await session()

        before = await asyncio.to_thread(server.connections)
        with counted_lookups() as lookups:
            await asyncio.gather(*(limited() for _ in range(sessions)))
            looked = len(lookups)
        return await asyncio.to_thread(server.connections) - before, looked

    async def original() -> None:
        for operation in original_operations(server)[1:]:
            await operation()
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/page", ssl=trusted) as response:
            await response.read()

    async with pool_for(server) as pool:

        async def pooled() -> None:
            for operation in pooled_operations(pool)[1:]:
                await operation()
            async with (await pool.http()).get(f"{server.url}/page", ssl=trusted) as response:
                await response.read()

        old_connections, old_lookups = await run_all(original)
        new_connections, new_lookups = await run_all(pooled)
    return {
        "requests": sessions * OPERATIONS,
        "original_connections": old_connections,
        "pool_connections": new_connections,
        "connections_saved_percent": 100 * (1 - new_connections / old_connections),
        "original_lookups": old_lookups,
        "pool_lookups": new_lookups,
        "lookups_saved_percent": 100 * (1 - new_lookups / old_lookups),
    }


# --- the monitor ------------------------------------------------------------------------------------


async def health(server: FarServer, *, seconds: float) -> Figures:
    """CPU of the monitor with OpenAI and Supabase in use, as a share of a core at the interval of 30 s."""

    async def used(interval: float) -> float:
        async with pool_for(server, pool_health_interval=interval) as pool:
            await pool.warm()
            await ask(await pool.openai())
            await asyncio.sleep(interval if interval < 1 else 0.2)
            before, began = cpu_seconds(os.getpid()), time.monotonic()
            await asyncio.sleep(seconds)
            return (cpu_seconds(os.getpid()) - before) / (time.monotonic() - began)

    interval = 0.1
    idle, checking = await used(3600), await used(interval)
    per_round = max(0.0, checking - idle) * interval
    return {"cpu_ms_per_round": per_round * 1000, "cpu_percent": 100 * per_round / HEALTH_SECONDS}


async def main() -> None:
    options = arguments(__doc__ or "", repeats=3)
    scale = 10 if options.quick else 1
    runs = []
    with far_server() as server:
        for _ in range(options.repeats):
            made = await clients(server, anew=10, pooled=10_000)
            with server.trusted():
                runs.append(
                    {
                        "openai_client": made,
                        "parallel": await parallel(server, rounds=max(1, 10 // scale)),
                        "saved": await saved(server, sessions=100 // scale),
                        "health": await health(server, seconds=10 / scale),
                    }
                )
    finish("pools", medians(runs), as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    asyncio.run(main())

"""How long the caches wait for a standby: after a kill -9 of the leading worker, and after a SIGTERM.

A change is committed right after the signal. ``ms``: from the signal until an agent has dropped its copy.
``detached``: in how many takeovers the agent stopped trusting its near cache meanwhile. ``limit_ms``: the
same change while the leader lives. Workers and agent have their default settings.
"""

import asyncio
import signal
import socket
import statistics
import time
from contextlib import ExitStack
from subprocess import Popen
from typing import Any

import aiohttp
import asyncpg
from harness import arguments, finish, leads, run, servers, worker
from redis.asyncio import Redis

from unstale import Cache
from unstale_worker.dev_servers import Stack

KEY = "user:1:profile"
CHANGE = "update public.profiles set version = version + 1 where id = 1"
Worker = tuple[Popen[bytes], ExitStack]


async def started(running: Stack, session: aiohttp.ClientSession, *, role: str) -> Worker:
    """A worker process that says of itself that it has this role."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stack = ExitStack()
    process = stack.enter_context(worker(running, UNSTALE_HTTP_PORT=str(port)))
    while True:
        if process.poll() is not None:
            raise SystemExit(f"the worker ended with exit code {process.returncode}")
        try:
            async with session.get(f"http://127.0.0.1:{port}/") as answer:
                if (await answer.json())["role"] == role:
                    return process, stack
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.05)


async def heard(cache: Cache, events: Any, db: asyncpg.Connection) -> None:
    """Change the cached row; return once this agent has dropped it."""
    await db.execute(CHANGE)
    async for event in events:
        if KEY in getattr(event, "keys", (KEY,)):  # a Reset drops everything
            return


async def detachments(cache: Cache, found: list[float]) -> None:
    """Write down each moment at which the agent is not attached."""
    while True:
        if not cache.attached:
            found.append(time.monotonic())
        await asyncio.sleep(0.002)


async def main() -> None:
    options = arguments(__doc__ or "", repeats=5)
    figures: dict[str, dict[str, float]] = {}
    async with (
        servers() as running,
        Redis.from_url(running.redis_url) as redis,
        aiohttp.ClientSession() as session,
    ):
        db = await asyncpg.connect(running.database_url)
        await db.execute("insert into public.profiles values (1, 'Ada')")
        leader = await started(running, session, role="leading")
        await leads(redis, process=leader[0])
        async with (
            Cache.from_env(redis_url=running.redis_url) as cache,
            cache.subscribe(KEY) as events,
        ):
            await cache.get_or_load(KEY, lambda: 1)
            limits = []
            for _ in range(20):
                began = time.monotonic()
                await heard(cache, events, db)
                limits.append(1000 * (time.monotonic() - began))
            for name, how in (("sigkill", signal.SIGKILL), ("sigterm", signal.SIGTERM)):
                took, detached = [], 0
                for _ in range(options.repeats):
                    standby = await started(running, session, role="standby")
                    await cache.get_or_load(KEY, lambda: 1)
                    moments: list[float] = []
                    watching = asyncio.create_task(detachments(cache, moments))
                    began = time.monotonic()
                    leader[0].send_signal(how)
                    await heard(cache, events, db)
                    took.append(1000 * (time.monotonic() - began))
                    watching.cancel()
                    await asyncio.wait([watching])
                    detached += bool(moments)
                    await asyncio.to_thread(leader[1].close)
                    leader = standby
                figures[name] = {"ms": statistics.median(took), "worst_ms": max(took), "detached": detached}
        await db.close()
        await asyncio.to_thread(leader[1].close)
    finish(
        "takeover",
        {**figures, "limit_ms": statistics.median(limits)},
        as_json=options.json,
        repeats=options.repeats,
    )


if __name__ == "__main__":
    run(main)

"""Helpers for tests of refreshes: make keys due, wait for their values, and spend budgets."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from redis.asyncio import Redis

from servers import eventually
from unstale.protocol.names import Names
from unstale_worker.refresh.redis.budgets import OverBudgetError, read_used
from unstale_worker.refresh.redis.store import open_store
from unstale_worker.rules import Rules
from workers import settings_for

NAMES = Names()
BUDGETS = Rules.parse("""
[[watch]]
table = "public.profiles"
keys = ["user:{id}:greeting"]
[refresh."user:{user_id}:greeting"]
loader = "greetings:greeting"
serve_stale = "1m"
budget = { user_id = "4/d", total = "10/d" }
""")


async def due(redis: Redis, *keys: str) -> None:
    """Leave what an invalidation of cached keys leaves: no value, and the keys due in the refresh set."""
    await redis.unlink(*keys)
    await redis.zadd(NAMES.refresh, {key: time.time() * 1000 for key in keys})


async def rules_in_force(redis: Redis) -> str:
    """Wait until a leader has stored its rules; return their hash."""

    async def found() -> bytes | None:
        rules: Any = await redis.hget(NAMES.state, "rules")
        return bytes(rules) if rules is not None else None

    return (await eventually(found, timeout=20.0, message="a leader stored its rules") or b"").decode()


async def filled(redis: Redis, key: str, *, timeout: float = 20.0) -> bytes:
    """Wait until ``key`` has a value, and return it."""

    async def value() -> bytes | None:
        found: Any = await redis.get(key)
        return found if found is not None and not found.startswith(b"\x00") else None

    found = await eventually(value, timeout=timeout, message=f"{key} is filled")
    assert found is not None
    return found


async def settled(redis: Redis, *, timeout: float = 20.0) -> None:
    """Wait until the refresh set is empty."""

    async def empty() -> bool:
        return not await redis.exists(NAMES.refresh)

    await eventually(empty, timeout=timeout, message="the refresh set is empty")


async def counts(redis: Redis) -> dict[str, int]:
    """Return the totals over all processes, without those of each refresh."""
    totals: Any = await redis.hgetall(NAMES.refresh_counts)
    return {name.decode(): int(n) for name, n in totals.items() if b":" not in name}


async def counts_of(redis: Redis, pattern: str) -> dict[str, int]:
    """Return the totals of one refresh."""
    totals: Any = await redis.hgetall(NAMES.refresh_counts)
    return {
        name.decode().removesuffix(f":{pattern}"): int(n)
        for name, n in totals.items()
        if name.endswith(f":{pattern}".encode())
    }


async def spend_budgets(url: str, redis: Redis, names: Names) -> None:
    """Let the stores of four processes spend at once, and check that exactly the budgets are spent."""
    (spec,) = BUDGETS.refreshes
    calls = dict.fromkeys(range(4), 0)
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(open_store(settings_for(None, url), BUDGETS)) for _ in range(4)
        ]

        async def spend(at: int, user: int) -> None:
            try:
                await stores[at].budgets.spend(spec, f"user:{user}:greeting")
            except OverBudgetError:
                return
            calls[user] += 1

        day = time.time() // 86_400
        await asyncio.gather(*(spend(n % 4, n // 4 % 4) for n in range(96)))
        if time.time() // 86_400 == day:  # no new window has begun meanwhile
            assert sum(calls.values()) == 10
            assert max(calls.values()) <= 4
            assert [each.calls for each in await read_used(redis, names, [spec])] == [None, 10]

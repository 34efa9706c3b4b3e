"""Helpers for tests of refreshes: make keys due, and wait for their values."""

import time
from typing import Any

from redis.asyncio import Redis

from servers import PATIENCE, eventually
from unstale.protocol.names import Names

NAMES = Names()


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


async def filled(redis: Redis, key: str, *, timeout: float = PATIENCE) -> bytes:
    """Wait until ``key`` has a value, and return it."""

    async def value() -> bytes | None:
        found: Any = await redis.get(key)
        return found if found is not None and not found.startswith(b"\x00") else None

    found = await eventually(value, timeout=timeout, message=f"{key} is filled")
    assert found is not None
    return found


async def settled(redis: Redis, *, timeout: float = PATIENCE) -> None:
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

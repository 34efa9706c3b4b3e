"""What tests of refreshes share: keys that are due, and what came of them."""

import time
from typing import Any

from redis.asyncio import Redis

from servers import eventually
from unstale.protocol.names import Names

NAMES = Names()


async def due(redis: Redis, *keys: str) -> None:
    """What an invalidation of cached keys leaves behind: no value, and the keys in the refresh set."""
    await redis.unlink(*keys)
    await redis.zadd(NAMES.refresh, {key: time.time() * 1000 for key in keys})


async def rules_in_force(redis: Redis) -> str:
    """Their hash, once a leader has stored it."""

    async def found() -> bytes | None:
        rules: Any = await redis.hget(NAMES.state, "rules")
        return bytes(rules) if rules is not None else None

    return (await eventually(found, timeout=20.0, message="a leader stored its rules") or b"").decode()


async def filled(redis: Redis, key: str, *, timeout: float = 20.0) -> bytes:
    """The value of ``key``, once there is one."""

    async def value() -> bytes | None:
        found: Any = await redis.get(key)
        return found if found is not None and not found.startswith(b"\x00") else None

    found = await eventually(value, timeout=timeout, message=f"{key} is filled")
    assert found is not None
    return found


async def settled(redis: Redis, *, timeout: float = 20.0) -> None:
    """Wait until no refresh is wanted any more."""

    async def empty() -> bool:
        return not await redis.exists(NAMES.refresh)

    await eventually(empty, timeout=timeout, message="no refresh is wanted any more")


async def counts(redis: Redis) -> dict[str, int]:
    """Totals over all processes."""
    totals: Any = await redis.hgetall(NAMES.refresh_counts)
    return {name.decode(): int(n) for name, n in totals.items()}

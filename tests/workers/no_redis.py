"""Caches without Redis whose embedded worker follows a database, for tests."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from servers import eventually
from unstale import Cache
from unstale.in_process.outbox_following import OutboxFollowing
from unstale_worker.in_process.outbox_follower import OutboxFollower
from workers import PROFILES

NOWHERE = "redis://127.0.0.1:1/0"
"""A port without a server: a cache that uses Redis although it is disabled fails."""


@asynccontextmanager
async def alone(
    dsn: str | None, *, rules: str = PROFILES, attached: bool = True, **more: Any
) -> AsyncIterator[Cache]:
    """Open a cache with an embedded worker that polls at least every 50 ms."""
    with tempfile.TemporaryDirectory(prefix="unstale-test-") as folder:
        file = Path(folder) / "unstale.toml"
        file.write_text(rules)
        settings = {"poll_max": 0.05, **more}
        async with Cache.from_env(
            env_file=None,
            redis_enabled=False,
            redis_url=NOWHERE,
            embedded_worker=True,
            database_url=dsn,
            config=file,
            **settings,
        ) as cache:
            if attached:
                await eventually(lambda: cache.attached, message="the cache is attached")
            yield cache


def follower_of(cache: Cache) -> OutboxFollower:
    """Return the outbox follower of ``cache``."""
    following = cache.inspect().following
    assert isinstance(following, OutboxFollowing)
    assert isinstance(following.worker, OutboxFollower)
    return following.worker

"""The least rights that docs/operations.md names are enough for worker, agents and doctor."""

from __future__ import annotations

import re
from pathlib import Path

from redis.asyncio import Redis

from servers import Database, eventually
from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.doctor import Severity, examine
from workers import PROFILES, SCHEMA, connected, running_worker, settings_for

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


async def test_the_documented_redis_user_can_do_it_all(
    tmp_path: Path, database: Database, valkey: EmbeddedValkey
) -> None:
    line = re.search(r"^ACL SETUSER .+$", PAGE.read_text(), re.MULTILINE)
    assert line is not None
    async with Redis.from_url(valkey.url) as redis:
        await redis.execute_command(*line[0].split())
    url = f"redis://unstale:password@127.0.0.1:{valkey.port}/0"
    (tmp_path / "unstale.toml").write_text(PROFILES)
    settings = settings_for(database.worker_dsn, url, config=tmp_path / "unstale.toml")
    async with connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
        async with (
            running_worker(database.worker_dsn, url),
            Cache.from_env(env_file=None, redis_url=url) as cache,
        ):
            await eventually(lambda: cache.attached)
            assert await cache.get_or_load("user:42:profile", lambda: "old") == "old"
            async with cache.subscribe("user:42:*") as events:
                await connection.execute("insert into profiles (id) values (42)")
                await anext(events)
            assert await cache.get_or_load("user:42:profile", lambda: "new") == "new"
            assert await cache.set("user:1:free", 1, ttl=10)
            await cache.delete("user:42:profile")
            assert await cache.invalidate_pattern("user:1:*") == 1
            stats = await cache.get_stats()
            assert stats["status"] == "healthy"

            findings = await examine(settings)

    assert [finding for finding in findings if finding.severity is not Severity.OK] == []

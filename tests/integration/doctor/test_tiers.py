"""A rented server: its user has no right to administer, and all that unstale does works with what is left."""

from pathlib import Path

import pytest
from redis.asyncio import Redis

from servers import Database, eventually
from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.doctor import Severity, examine
from unstale_worker.observe.overview import read_stats
from workers import PROFILES, SCHEMA, connected, redis_at, running_worker, settings_for
from workers.refresh_stage import filled

REFRESH = """
[refresh."user:{user_id}:greeting_instructions"]
loader = "row"
table = "public.profiles"
key = "id"
"""


async def test_everything_works_without_commands_of_administration(
    tmp_path: Path, database: Database
) -> None:
    """INFO, CONFIG, CLIENT, SCRIPT, WAIT, PUBSUB and ACL are refused, as docs/providers.md lists."""
    async with EmbeddedValkey(restricted=True) as server, connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
        url = server.restricted_url
        (tmp_path / "unstale.toml").write_text(PROFILES + REFRESH)
        settings = settings_for(database.worker_dsn, url, config=tmp_path / "unstale.toml")
        async with (
            running_worker(database.dsn, url, rules=PROFILES + REFRESH, script_keys=2) as worker,
            Cache.from_env(env_file=None, redis_url=url) as cache,
            redis_at(url) as redis,
        ):
            await eventually(lambda: cache.attached)
            assert await cache.get_or_load("user:42:profile", lambda: "old") == "old"
            assert await cache.get_or_load("user:42:greeting_instructions", lambda: "old") == "old"
            async with cache.subscribe("user:*") as events:
                await connection.execute("insert into profiles (id) select generate_series(40, 60)")
                while "user:42:profile" not in getattr(await anext(events), "keys", ()):
                    pass  # each message has the keys of one script
            assert await cache.get_or_load("user:42:profile", lambda: "new") == "new"
            await filled(redis, "user:42:greeting_instructions")
            assert await cache.set("user:1:free", 1, ttl=10)
            async with cache.lock("one"):
                pass
            await cache.delete("user:42:profile")
            assert await cache.invalidate_pattern("user:1:*") == 1
            await connection.execute("truncate profiles")
            token = await connection.fetchval("select unstale.token()")
            await cache.wait_for(token)
            assert (await cache.get_stats())["status"] == "healthy"
            stats = await read_stats(redis, settings.names)
            assert (stats.leader, stats.run, stats.memory, stats.agents) == (True, "", "", None)
            assert worker.status().counters.errors == 0, worker.status().counters.last_error
            findings = await examine(settings)
    said = {finding.subject: finding for finding in findings}
    assert said["Redis tier"].severity is Severity.WARNING
    assert said["Redis tier"].finding.startswith("no-run-id: ")
    assert "cannot be seen here: maxmemory-policy" in said["Redis settings"].finding
    others = [f for f in findings if f.severity is not Severity.OK and f.subject != "refreshes"]
    assert [finding.subject for finding in others] == ["Redis tier"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("timeout", "1", "timeout is 1"),
        ("client-output-buffer-limit", "pubsub 65536 0 0", "65,536 bytes behind"),
    ],
)
async def test_settings_that_cut_connections_off_are_named(
    tmp_path: Path, database: Database, valkey: EmbeddedValkey, name: str, value: str, said: str
) -> None:
    settings = settings_for(database.worker_dsn, valkey.url, config=tmp_path / "unstale.toml")
    async with Redis.from_url(valkey.url) as redis:
        await redis.config_set(name, value)
    findings = [finding for finding in await examine(settings) if finding.subject == "Redis settings"]
    assert [
        finding for finding in findings if finding.severity is Severity.WARNING and said in finding.finding
    ]

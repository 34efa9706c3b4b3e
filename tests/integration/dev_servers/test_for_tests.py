"""The servers of the fixture ``unstale_servers``: the project's migrations, its rules, and a worker."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from unstale import Cache, ConfigurationError, Invalidated
from unstale.testing.servers import Servers, started
from unstale_worker.leader.pipeline import Pipeline

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]
"""
SCHEMA = "create table public.profiles (id bigint primary key, name text);"
WATCH = "select unstale.watch('public.profiles', '{id}');"
SEED = "insert into public.profiles values (42, 'Ada');"


def project(root: Path, *, migration: str) -> Path:
    (root / "supabase" / "migrations").mkdir(parents=True)
    (root / "supabase" / "migrations" / "20260101000000_profiles.sql").write_text(migration)
    (root / "supabase" / "seed.sql").write_text(SEED)
    (root / "unstale.toml").write_text(RULES)
    return root


async def followed(servers: Servers) -> None:
    connection = await asyncpg.connect(servers.database_url)
    load = "select name from public.profiles where id = 42"
    try:
        async with Cache.from_env(env_file=None, redis_url=servers.redis_url, redis_timeout=60) as cache:
            assert cache.attached
            async with cache.subscribe("user:42:*") as events:
                assert await cache.get_or_load("user:42:profile", lambda: connection.fetchval(load)) == "Ada"
                await connection.execute("update public.profiles set name = 'Grace'")
                assert isinstance(await anext(events), Invalidated)  # no Reset of the worker's first start
            async with connection.transaction():
                await connection.execute("update public.profiles set name = 'Hopper'")
                token = await connection.fetchval("select unstale.token()")
            await cache.wait_for(token, timeout=60)
            assert await cache.get_or_load("user:42:profile", lambda: connection.fetchval(load)) == "Hopper"
    finally:
        await connection.close()


def test_a_worker_follows_the_projects_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has finished its first start, however long that takes, before the first test begins."""
    begin = Pipeline._begin

    async def slow(pipeline: Pipeline) -> None:
        await asyncio.sleep(2)
        await begin(pipeline)

    monkeypatch.setattr(Pipeline, "_begin", slow)
    with started(project(tmp_path, migration=SCHEMA + WATCH)) as servers:
        assert servers.has_worker
        assert "postgresql://" not in repr(servers)
        asyncio.run(followed(servers))  # a loop of the test's own, as each test has


def test_what_the_worker_refuses_is_an_error_of_the_fixture(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"public\.profiles"),
        started(project(tmp_path, migration=SCHEMA)),
    ):
        pytest.fail("started without the capture")

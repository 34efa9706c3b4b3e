"""The run-books of docs/operations.md, played on real servers under load: no read is stale, none is lost."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from deploys.previous import unpacked
from deploys.stage import SCHEMA, deployed, rules
from servers import Database
from unstale_worker.dev_servers.migrations import apply_migrations
from workers import connected, redis_at, state_of
from workers.commands import run

OLD, NEW = "item:{id}", "v2:item:{id}"


async def test_the_template_of_a_key_changes(database: Database, redis_url: str, tmp_path: Path) -> None:
    """Two agents are replaced one by one. What the unchanged template owns stays cached all the time."""
    file = tmp_path / "unstale.toml"
    async with deployed(database, redis_url, tmp_path) as stage, redis_at(redis_url) as redis:
        async with connected(database.dsn) as db:
            await db.execute(SCHEMA + "select unstale.watch('public.items', '{id,version}');")
        file.write_text(rules(OLD))
        worker = await stage.worker()
        agents = await asyncio.gather(*(stage.agent(OLD) for _ in range(2)))
        await stage.begin()
        epoch = (await state_of(redis))["epoch"]
        await redis.set("item:99", "cached before", ex=3600)
        file.write_text(rules(OLD, NEW))
        second = await stage.worker()
        await stage.stop(worker)
        for place, agent in enumerate(agents):
            agents[place] = await stage.agent(NEW)
            await stage.end(agent)
        assert await redis.exists("item:99")
        file.write_text(rules(NEW))
        third = await stage.worker()
        await stage.stop(second)
        verdict = await stage.settled(*agents)
        assert verdict.true, verdict.complaints
        assert verdict.attached_reads > 100
        state = await state_of(redis)
        assert state["epoch"] == epoch, "near caches were never dropped as a whole"
        assert not await redis.exists("item:99"), "its template was removed"
        await stage.stop(third)


async def test_an_upgrade_from_the_version_before(
    empty_database: Database, redis_url: str, tmp_path: Path
) -> None:
    """Database, workers, agents, in this order; and back. A worker before its database says what to do."""
    previous = await asyncio.to_thread(unpacked, tmp_path / "previous")
    migrations = tmp_path / "supabase" / "migrations"
    shutil.copytree(previous / "supabase" / "migrations", migrations)
    await apply_migrations(empty_database.dsn, migrations)
    (tmp_path / "unstale.toml").write_text(rules(OLD))
    async with connected(empty_database.superuser_dsn) as db:
        password = urlsplit(empty_database.worker_dsn).password
        await db.execute(f"alter role unstale_worker login password '{password}'")
    async with connected(empty_database.dsn) as db:
        await db.execute(SCHEMA + "select unstale.watch('public.items', '{id,version}');")
    async with deployed(empty_database, redis_url, tmp_path) as stage, redis_at(redis_url) as redis:
        old = await stage.worker(previous)
        agents = await asyncio.gather(stage.agent(OLD, previous), stage.agent(OLD))
        await stage.begin()
        early = await stage.refused()
        assert early.code == 2
        assert "run `unstale migration` and push the new files" in early.err
        written = await asyncio.to_thread(run, "migration", cwd=tmp_path)
        assert "every watch is written again" in written.out
        await apply_migrations(empty_database.dsn, migrations)
        new = await stage.worker()
        await stage.stop(old)
        again = await stage.worker(previous)
        await stage.stop(new)
        verdict = await stage.settled(*agents)
        assert verdict.true, verdict.complaints
        assert verdict.attached_reads > 100
        assert (await state_of(redis))["fence"] == "3"
        await stage.stop(again)

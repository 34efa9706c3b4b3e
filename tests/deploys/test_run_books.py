"""The run-books of docs/operations.md, played on real servers under load: no read is stale, none is lost."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploys.previous import unpacked
from deploys.stage import SCHEMA, deployed, rules
from servers import Database
from servers.dumps import dump, load
from unstale_worker.dev_servers.migrations import apply_migrations
from workers import connected, redis_at, state_of
from workers.commands import run

OLD, NEW = "item:{id}", "v2:item:{id}"
WATCH = "select unstale.watch('public.items', '{id,version}');"
SWAP = """
create table public.items_new (like public.items including all);
lock table public.items in exclusive mode;
insert into public.items_new select * from public.items;
alter table public.items rename to items_old;
alter table public.items_new rename to items;
"""


async def test_the_template_of_a_key_changes(database: Database, redis_url: str, tmp_path: Path) -> None:
    """Three of four agents are replaced, one by one, and a leader is killed. Nothing leaves the cache."""
    file = tmp_path / "unstale.toml"
    async with deployed(database, redis_url, tmp_path) as stage, redis_at(redis_url) as redis:
        async with connected(database.dsn) as db:
            await db.execute(SCHEMA + WATCH)
        file.write_text(rules(OLD))
        worker = await stage.worker()
        agents = await asyncio.gather(*(stage.agent(OLD) for _ in range(4)))
        await stage.begin()
        epoch = (await state_of(redis))["epoch"]
        await redis.set("item:99", "cached before", ex=3600)
        file.write_text(rules(NEW))
        second = await stage.worker()
        await stage.stop(worker)
        third = await stage.worker()
        for place, agent in enumerate(agents[1:], 1):
            agents[place] = await stage.agent(NEW)
            await stage.end(agent)
            if place == 2:
                second.kill()
                await second.communicate()
        await stage.changes(50)
        listed = await asyncio.to_thread(run, "agents", cwd=tmp_path, settings=stage.settings)
        assert "former watch of public.items, item:{id}: applied" in listed.out
        verdict = await stage.settled(*agents)
        assert verdict.true, verdict.complaints
        assert verdict.attached_reads > 100
        state = await state_of(redis)
        assert state["epoch"] == epoch, "near caches were never dropped as a whole"
        assert await redis.exists("item:99"), "an agent of the old rules is left"
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
        await db.execute(SCHEMA + WATCH)
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


@pytest.mark.parametrize("followed", [True, False], ids=["event triggers", "no event triggers"])
async def test_a_watched_table_is_swapped(
    database: Database, plain_database: Database, redis_url: str, tmp_path: Path, followed: bool
) -> None:
    """The renames and the watch are one transaction: nothing is missed, and nothing else is dropped."""
    chosen = database if followed else plain_database
    (tmp_path / "unstale.toml").write_text(rules(OLD))
    async with deployed(chosen, redis_url, tmp_path) as stage, redis_at(redis_url) as redis:
        async with connected(chosen.dsn) as db:
            await db.execute(SCHEMA + WATCH)
        worker = await stage.worker()
        agents = await asyncio.gather(*(stage.agent(OLD) for _ in range(2)))
        await stage.begin()
        epoch = (await state_of(redis))["epoch"]
        async with connected(chosen.dsn) as db:
            await stage.changes(50)
            async with db.transaction():
                await db.execute(SWAP + WATCH)
            await db.execute("drop table items_old")
            assert await db.fetch("select * from unstale.check() where severity = 'error'") == []
        await stage.changes(50)
        verdict = await stage.settled(*agents)
        assert verdict.true, verdict.complaints
        assert verdict.attached_reads > 100
        assert (await state_of(redis))["epoch"] == epoch
        await stage.stop(worker)


async def test_the_database_is_restored_in_place(database: Database, redis_url: str, tmp_path: Path) -> None:
    """Rows and outbox are those of a dump, the server is the same: everything is dropped once, by itself."""
    (tmp_path / "unstale.toml").write_text(rules(OLD))
    async with deployed(database, redis_url, tmp_path) as stage, redis_at(redis_url) as redis:
        async with connected(database.dsn) as db:
            await db.execute(SCHEMA + WATCH)
        worker = await stage.worker()
        agents = await asyncio.gather(*(stage.agent(OLD) for _ in range(2)))
        await stage.begin()
        epoch = (await state_of(redis))["epoch"]
        await stage.changes(50)
        file = await dump(database, tmp_path / "items.sql", "--format=plain", "--clean", "--if-exists")
        versions = with_versions_of_its_own(file)
        async with stage.replaced_rows(versions):
            await load(database, file)
        assert (await asyncio.to_thread(run, "doctor", cwd=tmp_path, settings=stage.settings)).code == 0
        await stage.changes(50)
        verdict = await stage.settled(*agents)
        assert verdict.true, verdict.complaints
        assert verdict.attached_reads > 100
        assert (await state_of(redis))["epoch"] != epoch
        await stage.stop(worker)


def with_versions_of_its_own(file: Path) -> dict[int, int]:
    """Give the rows of a dump versions that no read has seen, which the history checker can tell apart."""
    versions = {}

    def other(found: re.Match[str]) -> str:
        number, version = int(found[1]), int(found[2]) + 1_000_000
        versions[number] = version
        return f"{number}\t{version}\n"

    head, copy, rest = file.read_text().partition("COPY public.items (id, version) FROM stdin;\n")
    rows, end, tail = rest.partition("\\.\n")
    file.write_text(head + copy + re.sub(r"(\d+)\t(\d+)\n", other, rows) + end + tail)
    return versions

"""Loaders that read over the REST API of Supabase: tables, views, embedded tables and functions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from servers import Database
from unstale import AgentSettings, Cache, ConnectionPool, PoolSettings
from unstale.companion.recording import recorder
from unstale.testing import InMemory
from unstale_worker.learn.report import learn, read_recording

TABLES = """
create table people (id bigint primary key, name text);
create table notes (id bigint primary key, person_id bigint references people, body text);
create table rooms (id bigint primary key, owner_id bigint constraint owner references people);
create view named as select id, name from people;
create function noted(person bigint) returns setof notes language sql security definer
    as 'select * from public.notes as n where n.person_id = person';
"""


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Path]:
    recorder.start(tmp_path)
    yield tmp_path
    recorder.stop()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A project that answers every request of its REST API with no rows."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response([])

    application = web.Application()
    application.router.add_route("*", "/rest/v1/{rest:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server: Any = site._server
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await runner.cleanup()


async def tables_by_key(pool: ConnectionPool, cache: Cache, recording: Path) -> dict[str, set[str]]:
    client = await pool.supabase()
    requests = {
        "person:7:row": client.table("people").select("*").eq("id", 7),
        "person:7:view": client.table("named").select("name").eq("id", 7),
        "person:7:embedded": client.table("people").select("name, n:notes!inner(body), count()").eq("id", 7),
        "room:7": client.table("rooms").select("id, owner(name)").in_("id", [7, 8]),
        "person:7:rpc": client.rpc("noted", {"person": 7}),
    }
    for key, request in requests.items():

        async def load(request: Any = request) -> object:
            return (await request.execute()).data

        await cache.get_or_load(key, load)
    await client.table("rooms").select("*").execute()  # no loader asks for it
    return {each.key: {table.name for table in each.reading.tables} for each in read_recording(recording)}


async def test_requests_of_loaders_are_followed(
    database: Database, url: str, unstale_cache: InMemory, recording: Path
) -> None:
    connection = await asyncpg.connect(database.dsn)
    await connection.execute(TABLES)
    await connection.close()
    settings = {"supabase_url": url, "supabase_key": "k"}
    async with (
        ConnectionPool(PoolSettings(**settings, database_url=database.dsn)) as pool,
        Cache(AgentSettings()) as cache,
    ):
        assert await tables_by_key(pool, cache, recording) == {
            "person:7:row": {"people"},
            "person:7:view": {"people"},
            "person:7:embedded": {"people", "notes"},
            "room:7": {"rooms", "people"},
            "person:7:rpc": {"notes"},
        }
    found = learn(None, read_recording(recording))
    assert found.doubts == ()
    assert 'table = "public.people"\nkeys  = ["person:{id}:row"' in found.toml
    assert 'table = "public.rooms"\nkeys  = ["room:{id}"]' in found.toml
    assert "7" not in "".join(each.statement for each in found.missing)


async def test_without_a_database_names_are_taken_for_tables(
    url: str, unstale_cache: InMemory, recording: Path
) -> None:
    async with (
        ConnectionPool(PoolSettings(supabase_url=url, supabase_key="k")) as pool,
        Cache(AgentSettings()) as cache,
    ):
        found = await tables_by_key(pool, cache, recording)
    assert found["person:7:embedded"] == {"people", "notes"}
    assert found["person:7:rpc"] == set()
    assert any("set DATABASE_URL" in doubt for doubt in learn(None, read_recording(recording)).doubts)

"""The Realtime double's changes: out of a real WAL, under real rights, through the official client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from realtime import AsyncRealtimeClient
from realtime.types import RealtimePostgresChangesListenEvent, RealtimeSubscribeStates

from servers import Database, eventually
from supabase_double import SupabaseDouble
from unstale_worker.dev_servers import EmbeddedPostgres
from unstale_worker.supabase_double.feed import Feed

SCHEMA = """
    create table public.notes (id bigint primary key, author text, body jsonb, at timestamptz default now());
    create table public.keyless (id bigint);
    create table public.quiet (id bigint primary key);
    create publication supabase_realtime for table public.notes, public.keyless;
    grant select on public.notes, public.keyless to service_role, authenticated;
"""


class Heard:
    """What one subscription of the official client heard."""

    def __init__(self) -> None:
        self.changes: list[dict[str, Any]] = []
        self.system: list[str] = []
        self.states: list[RealtimeSubscribeStates] = []


@asynccontextmanager
async def hearing(
    project: SupabaseDouble, *, table: str = "notes", key: str | None = None, token: str | None = None
) -> AsyncIterator[Heard]:
    heard = Heard()
    client = AsyncRealtimeClient(
        f"{project.url}/realtime/v1", key or project.keys.secret, auto_reconnect=False
    )
    if token is not None:
        await client.set_auth(token)
    channel = client.channel("room")
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent.All, lambda p: heard.changes.append(dict(p["data"])), table=table
    )
    channel.on_system(lambda p: heard.system.append(p.message))
    try:
        await channel.subscribe(lambda state, _: heard.states.append(state))
        yield heard
    finally:
        channel.rejoin_timer.reset()
        channel.join_push.destroy()
        await client.close()


@pytest.fixture
async def sql(empty_database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database.superuser_dsn)
    await connection.execute(SCHEMA)
    yield connection
    await connection.close()


@pytest.fixture
async def project(empty_database: Database, sql: asyncpg.Connection) -> AsyncIterator[SupabaseDouble]:
    async with SupabaseDouble(empty_database, poll=0.02) as double:
        yield double


async def subscribed(heard: Heard) -> None:
    await eventually(lambda: "Subscribed to PostgreSQL" in heard.system)


async def test_what_is_committed_is_told_in_order(project: SupabaseDouble, sql: asyncpg.Connection) -> None:
    async with hearing(project) as heard:
        await subscribed(heard)
        assert heard.states == [RealtimeSubscribeStates.SUBSCRIBED]
        await sql.execute("insert into notes values (1, 'ä', '{\"x\": [1]}', '2026-11-22 10:00:00+00')")
        await sql.execute("update notes set author = null where id = 1")
        await sql.execute("update notes set id = 2")
        await sql.execute("begin; insert into notes values (8); rollback")
        await sql.execute("insert into quiet values (1)")
        await sql.execute("delete from notes")
        await sql.execute("insert into notes values (3); truncate notes; insert into notes values (4)")
        await eventually(lambda: len(heard.changes) == 6)

        told = [(c["type"].value, c.get("record", {}).get("id"), c.get("old_record")) for c in heard.changes]
        assert told == [
            ("INSERT", 1, None),
            ("UPDATE", 1, {"id": 1}),
            ("UPDATE", 2, {"id": 1}),
            ("DELETE", None, {"id": 2}),  # the key only: no replica identity full
            ("INSERT", 3, None),
            ("INSERT", 4, None),  # and of the TRUNCATE between, nothing
        ]
        record = heard.changes[0]["record"]
        assert record == {"id": 1, "author": "ä", "body": {"x": [1]}, "at": "2026-11-22T10:00:00+00:00"}
        assert heard.changes[0]["columns"][0] == {"name": "id", "type": "int8"}
        assert heard.changes[0]["commit_timestamp"].endswith("Z")


async def test_the_replica_identity_decides_what_is_old(
    project: SupabaseDouble, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "alter table notes replica identity full; insert into notes (id, author) values (1, 'a')"
    )
    async with hearing(project) as heard:
        await subscribed(heard)
        await sql.execute("update notes set author = 'b'; delete from notes")
        await eventually(lambda: len(heard.changes) == 2)

    assert [change["old_record"]["author"] for change in heard.changes] == ["a", "b"]


async def test_without_a_grant_the_official_client_hears_nothing(
    project: SupabaseDouble, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await sql.execute("revoke select on notes from service_role")
    async with hearing(project) as heard:
        await subscribed(heard)
        await sql.execute("insert into notes values (1)")
        await eventually(lambda: "Error 401: Unauthorized" in caplog.text)  # its only trace
        assert heard.changes == []

        await sql.execute("grant select on notes to service_role; insert into notes values (2)")
        await eventually(lambda: heard.changes)
        assert heard.changes[0]["record"]["id"] == 2


async def test_a_table_without_a_key_is_an_error_row(
    project: SupabaseDouble, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with hearing(project, table="keyless") as heard:
        await subscribed(heard)
        await sql.execute("insert into keyless values (1)")
        await eventually(lambda: "Error 400: Bad Request, no primary key" in caplog.text)
        assert heard.changes == []


async def test_row_level_security_holds_for_who_has_no_bypass(
    project: SupabaseDouble, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        "alter table notes enable row level security; create policy own on notes for select to authenticated "
        "using (author = current_setting('request.jwt.claims')::jsonb ->> 'sub')"
    )
    token = project.keys.token("authenticated", sub="ann")
    async with (
        hearing(project) as service,
        hearing(project, key=project.keys.publishable, token=token) as ann,
        hearing(project, key=project.keys.publishable) as anonymous,
    ):
        for heard in (service, ann, anonymous):
            await subscribed(heard)
        await sql.execute("insert into notes (id, author) values (1, 'bob'), (2, 'ann')")
        await eventually(lambda: len(service.changes) == 2 and ann.changes)
        assert [change["record"]["id"] for change in ann.changes] == [2]
        assert anonymous.changes == []  # not granted: an error row, which the client drops


async def test_what_the_publication_does_not_have_cannot_be_subscribed(project: SupabaseDouble) -> None:
    async with hearing(project, table="quiet") as heard:
        await eventually(lambda: RealtimeSubscribeStates.CHANNEL_ERROR in heard.states)
        assert heard.system == []


async def test_a_large_change_is_told_in_part(project: SupabaseDouble, sql: asyncpg.Connection) -> None:
    async with hearing(project) as heard:
        await subscribed(heard)
        await sql.execute("insert into notes (id, author) values (1, repeat('x', 2000000))")
        await eventually(lambda: heard.changes)

    assert heard.changes[0]["errors"] == ["Error 413: Payload Too Large"]
    assert "author" not in heard.changes[0]["record"]
    assert heard.changes[0]["record"]["id"] == 1


async def test_a_database_that_restarts_is_subscribed_anew(own_postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(own_postgres.superuser_dsn)
    await connection.execute(SCHEMA)
    await connection.close()
    async with (
        SupabaseDouble(Database("postgres", own_postgres), poll=0.02) as project,
        hearing(project) as heard,
    ):
        await subscribed(heard)
        await own_postgres.kill()
        await own_postgres.start()
        await eventually(lambda: len(heard.system) >= 2)
        connection = await asyncpg.connect(own_postgres.superuser_dsn)
        await connection.execute("insert into notes values (5)")
        await connection.close()
        await eventually(lambda: heard.changes)
        assert heard.changes[0]["record"]["id"] == 5


async def test_a_feed_that_never_began_can_be_closed(empty_database: Database) -> None:
    async def never(*_: object) -> None:
        raise AssertionError

    feed = Feed(empty_database.superuser_dsn, tell=never, subscribed_anew=never, poll=1)
    await feed.close()
    await feed.close()

"""The Supabase double satisfies the official JavaScript client, in both versions of the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from realtime import AsyncRealtimeClient

from servers import Database, eventually
from supabase_double import SupabaseDouble
from supabase_double.javascript import JavaScript, javascript

SCHEMA = """
    create table public.notes (id bigint primary key, body jsonb);
    create publication supabase_realtime for table public.notes;
    grant select on public.notes to service_role;
    create function public.add(a int, b int default 10) returns int language sql as $$ select a + b $$;
    create function public.numbers(n int) returns setof int language sql as
        $$ select generate_series(1, n) $$;
"""


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


async def subscribed(client: JavaScript) -> None:
    while await client.next("state") != "SUBSCRIBED":
        pass
    assert await client.next("system") == "Subscribed to PostgreSQL"


@pytest.mark.parametrize("version", [1, 2])
async def test_changes_broadcasts_faults_and_functions(
    project: SupabaseDouble, sql: asyncpg.Connection, version: int
) -> None:
    async with javascript(project.url, project.keys.secret, version=version) as client:
        await subscribed(client)
        assert {socket.version for socket in project.realtime.sockets} == {version}
        await sql.execute("insert into notes values (1, '{\"a\": [1]}'); update notes set body = null")
        change = await client.next("change")
        assert (change["type"], change["new"]) == ("INSERT", {"id": 1, "body": {"a": [1]}})
        change = await client.next("change")
        assert (change["type"], change["new"]["body"], change["old"]) == ("UPDATE", None, {"id": 1})

        await client.tell("send", {"n": 1})
        assert await client.next("sent") == "ok"  # acknowledged
        assert await client.next("broadcast") == {"n": 1}  # and heard by itself

        for number, end in enumerate(("drop", "reset"), start=2):
            if end == "drop":
                await project.realtime.drop(1012)
            else:
                project.realtime.reset()
            await subscribed(client)
            await sql.execute("insert into notes values ($1)", number)
            assert (await client.next("change"))["new"]["id"] == number

        await client.tell("rpc", {"name": "add", "arguments": {"a": 1}})
        assert await client.next("answer") == {"data": 11, "code": None, "status": 200}
        await client.tell("rpc", {"name": "numbers", "arguments": {"n": 2000}})
        assert len((await client.next("answer"))["data"]) == 1000
        await client.tell("rpc", {"name": "absent", "arguments": {}})
        assert await client.next("answer") == {"data": None, "code": "PGRST202", "status": 404}

        await project.realtime.expire_tokens()
        while await client.next("state") != "CLOSED":  # for good: this client does not join again either
            pass
        assert not project.realtime.channels


@pytest.mark.parametrize("version", [1, 2])
async def test_it_and_the_python_client_hear_each_other(project: SupabaseDouble, version: int) -> None:
    heard: list[Any] = []
    python = AsyncRealtimeClient(
        f"{project.url}/realtime/v1", project.keys.service_role, auto_reconnect=False
    )
    channel = python.channel("room")
    channel.on_broadcast("hi", lambda message: heard.append(message["payload"]))
    await channel.subscribe()
    try:
        async with javascript(project.url, project.keys.service_role, version=version) as client:
            await subscribed(client)
            await channel.send_broadcast("hi", {"from": "python"})
            assert await client.next("broadcast") == {"from": "python"}
            await client.tell("send", {"from": "javascript"})
            await eventually(lambda: heard)
            assert heard == [{"from": "javascript"}]
            await channel.http_send("hi", {"over": "http"})
            assert await client.next("broadcast") == {"from": "javascript"}  # its own
            assert await client.next("broadcast") == {"over": "http"}
            await client.tell("leave")
            assert await client.next("left") == "ok"
            await eventually(lambda: len(project.realtime.channels) == 1)
    finally:
        channel.join_push.destroy()
        for push in channel.messages_waiting_for_ack.values():
            push.destroy()
        await python.close()

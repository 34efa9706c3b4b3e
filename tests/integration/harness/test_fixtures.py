"""The fixtures give what they promise, and the look for leaks afterwards sees a leak."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest
from redis import Redis as Client
from redis.asyncio import Redis

from servers import Database, eventually
from servers.valkeys import Valkeys
from unstale_worker.dev_servers import EmbeddedPostgres, EmbeddedValkey

TESTS = Path(__file__).parents[2]
SCRIPT = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"  # SHA-1 of "return 1"


async def test_database_belongs_to_a_role_that_is_no_superuser(database: Database) -> None:
    connection = await asyncpg.connect(database.dsn)
    try:
        row = await connection.fetchrow(
            "select current_user as who, rolsuper, rolbypassrls, pg_get_userbyid(datdba) as owner "
            "from pg_roles, pg_database where rolname = current_user and datname = current_database()"
        )
        assert row is not None
        assert dict(row) == {"who": "postgres", "rolsuper": False, "rolbypassrls": True, "owner": "postgres"}
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(
                "create function f() returns event_trigger language plpgsql as 'begin end'; "
                "create event trigger t on ddl_command_end execute function f()"
            )
    finally:
        await connection.close()


@pytest.mark.parametrize("round", [1, 2])
async def test_each_test_has_a_database_of_its_own(empty_database: Database, round: int) -> None:
    connection = await asyncpg.connect(empty_database.dsn)
    try:
        await connection.execute("create table only_once ()")
        assert await connection.fetchval("select to_regnamespace('unstale')") is None
    finally:
        await connection.close()


@pytest.mark.parametrize("round", [1, 2])
async def test_each_test_has_a_valkey_of_its_own(redis_url: str, namespace: str, round: int) -> None:
    async with Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        await client.set(f"{{{namespace}:0}}:state", "permanent")
        await client.set("user:1:profile", "{}", ex=60)


async def test_own_postgres_may_be_killed(own_postgres: EmbeddedPostgres) -> None:
    dsn = own_postgres.dsn()
    connection = await asyncpg.connect(dsn)
    await own_postgres.kill()
    await eventually(connection.is_closed)
    await own_postgres.start()
    connection = await asyncpg.connect(dsn)
    await connection.close()


async def test_killed_valkey_is_not_asked_for_its_keys(valkey: EmbeddedValkey) -> None:
    await valkey.kill()
    assert not await valkey.running()


def test_a_changed_valkey_serves_no_other_test(valkeys: Valkeys) -> None:
    """Keys, scripts and counters are removed; whatever else differs ends the server."""

    def used(change: Callable[[Client], object]) -> bool:
        """Change a server, and return True if the next test gets it again."""
        server = valkeys.take()
        with Client.from_url(server.url) as client:
            change(client)
        valkeys.give_back(server, allowed=["left"])
        pid, server = server.pid, valkeys.take()
        with Client.from_url(server.url) as client:
            assert client.dbsize() == 0
            assert "cmdstat_set" not in client.info("commandstats")
            assert client.script_exists(SCRIPT) == [False]
        valkeys.give_back(server, allowed=())
        return server.pid == pid

    assert used(lambda client: [client.set("left", 1), client.script_load("return 1")])
    assert not used(lambda client: client.config_set("maxmemory", "100mb"))
    assert not used(lambda client: client.execute_command("ACL", "SETUSER", "poor", "on", ">pw"))
    assert not used(lambda client: client.client_pause(60_000, all=False))
    assert not used(lambda client: [client.replicaof("127.0.0.1", "1"), client.replicaof("NO", "ONE")])
    with ExitStack() as stack:

        def connect(client: Client) -> None:
            kwargs = client.get_connection_kwargs()
            other = Client(port=kwargs["port"], password=kwargs["password"])
            stack.enter_context(other).ping()

        assert not used(connect)


LEAKS = """
import asyncio

import asyncpg
from redis.asyncio import Redis

import servers

servers.LEAK_GRACE_SECONDS = 0.1
left = []


async def test_task() -> None:
    left.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))


async def test_keys(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        await client.set("forgotten", 1)
        await client.set("{unstale:0}:log", 1)


async def test_connection(empty_database) -> None:
    named = {"application_name": "forgotten"}
    left.append(await asyncpg.connect(empty_database.dsn, server_settings=named))
"""
COMPLAINTS = (
    "left-over tasks",
    "left-over keys without TTL: ['forgotten']",
    "left-over connections: ['postgres forgotten: ",
)


def test_a_leak_fails_the_test_that_leaks(tmp_path: Path) -> None:
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", tmp_path, "--rootdir", tmp_path),
            *("-c", TESTS.parent / "pyproject.toml", "-o", "filterwarnings="),
            *("-p", "conftest", "-p", "no:cacheprovider"),
        ],
        capture_output=True,
        text=True,
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])},
        timeout=200,
    )
    assert [complaint for complaint in COMPLAINTS if complaint not in run.stdout] == []
    assert f"{len(COMPLAINTS)} passed, {len(COMPLAINTS)} errors" in run.stdout

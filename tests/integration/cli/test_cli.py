"""The command line as users call it: exit codes, messages, signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import redis as redis_sync
from redis.asyncio import Redis

from servers import Database, eventually
from unstale.protocol.names import Names
from workers import PROFILES, SCHEMA
from workers.commands import all_gone, environment, run, started

TABLES = "create table profiles (id bigint primary key, name text);"


def project(folder: Path, rules: str = PROFILES) -> Path:
    (folder / "unstale.toml").write_text(rules)
    return folder


# --- usage and configuration --------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", '[ttl]\n"user:*" = "1h"\n'])
def test_a_worker_whose_rules_watch_nothing_does_not_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "unstale.toml").write_text(text)
    settings = {"DATABASE_URL": "postgresql://127.0.0.1:1/postgres", "REDIS_URL": "redis://127.0.0.1:1/0"}
    ended = run("worker", cwd=tmp_path, settings=settings)
    assert ended.code == 2
    assert "unstale.toml: no [[watch]]: no change would invalidate a key" in ended.err
    found = run("doctor", cwd=tmp_path, settings=settings)
    assert "no [[watch]]" in found.out + found.err


def test_help_and_version(tmp_path: Path) -> None:
    assert run("--help", cwd=tmp_path).code == 0
    assert run("doctor", "-h", cwd=tmp_path).code == 0
    version = run("--version", cwd=tmp_path)
    assert version.code == 0
    assert re.fullmatch(r"unstale \d+\.\d+\.\d+\n", version.out)


LOADED = """
import sys, importlib

for module, without in (
    ("unstale_worker.cli.commands", "asyncpg redis aiohttp supabase openai realtime rich uvloop pydantic"),
    ("unstale_worker.refresh.python.loader_host", "asyncpg redis aiohttp supabase openai realtime"),
    ("unstale_worker.leader.supervisor", "aiohttp supabase openai realtime prometheus_client httpx"),
):
    importlib.import_module(module)
    print(module, [name for name in without.split() if name in sys.modules])
"""


def test_a_process_loads_no_library_before_it_is_needed() -> None:
    """The command line, a process of loaders, the worker: each has all that the one before it needs."""
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert [line.partition(" ")[2] for line in done.stdout.splitlines()] == ["[]", "[]", "[]"], done.stdout


ENTRY = """
import importlib.abc, os, signal, sys, tomllib
from importlib import import_module

_, project, imported, *command = sys.argv
sys.argv = ["unstale", *command]

class CtrlC(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == imported:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
with open(project, "rb") as file:
    module, _, function = tomllib.load(file)["project"]["scripts"]["unstale"].partition(":")
sys.exit(getattr(import_module(module), function)())
"""


@pytest.mark.parametrize(
    ("imported", "command"),
    [
        ("typer", "--help"),
        ("unstale.errors", "stats"),
        ("unstale_worker.runtime.event_loop", "stats"),
        ("uvloop", "worker"),
    ],
)
def test_ctrl_c_while_it_imports_ends_it_without_a_word(tmp_path: Path, imported: str, command: str) -> None:
    """As installed: the function that pyproject.toml names, interrupted as that module is about to load."""
    project = Path(__file__).parents[3] / "pyproject.toml"
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, str(project), imported, command],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("demo", "--for", "soon"), ("demo", "--for", "0"), ("demo", "--agents", "99"), ()],
)
def test_wrong_usage_exits_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run(*arguments, cwd=tmp_path).code == 2


@pytest.mark.parametrize(
    ("command", "settings", "said"),
    [
        ("worker", {}, "unstale.toml: no rules found in /"),
        ("stats", {"REDIS_URL": "nonsense"}, "REDIS_URL"),
        ("stats", {"UNSTALE_LEADER_TTL": "never"}, "UNSTALE_LEADER_TTL"),
        ("worker", {"UNSTALE_HTTP_HOST": "0.0.0.0"}, "UNSTALE_HTTP_TOKEN"),
        ("worker", {"UNSTALE_LOG": "loud"}, "UNSTALE_LOG"),
        ("migration", {"UNSTALE_CONFIG": "absent.toml"}, "absent.toml"),
    ],
)
def test_wrong_configuration_exits_2_with_a_sentence(
    tmp_path: Path, command: str, settings: dict[str, str], said: str
) -> None:
    ended = run(command, cwd=tmp_path, settings=settings)

    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_worker_without_a_database_says_what_to_set(tmp_path: Path) -> None:
    ended = run("worker", cwd=project(tmp_path))

    assert ended.code == 2
    assert "DATABASE_URL is not set" in ended.err


def test_a_worker_with_another_servers_url_says_what_it_should_be(tmp_path: Path) -> None:
    ended = run("worker", cwd=project(tmp_path), settings={"DATABASE_URL": "mysql://a:s3cr3t@127.0.0.1/b"})

    assert ended.code == 2
    assert "DATABASE_URL begins with mysql://; it must begin with postgresql://" in ended.err
    assert "s3cr3t" not in ended.err


def test_a_server_that_is_away_exits_1_and_its_password_stays_hidden(tmp_path: Path) -> None:
    ended = run("stats", cwd=tmp_path, settings={"REDIS_URL": "redis://:s3cr3t@127.0.0.1:1/0"})

    assert ended.code == 1
    assert "Redis" in ended.err
    assert "s3cr3t" not in ended.err + ended.out
    assert "Traceback" not in ended.err


def test_the_rules_file_can_be_named(tmp_path: Path) -> None:
    elsewhere = tmp_path / "rules.toml"
    elsewhere.write_text(PROFILES)

    assert run("--config", str(elsewhere), "migration", cwd=tmp_path).code == 0
    assert list((tmp_path / "supabase/migrations").glob("*_unstale_watches.sql"))


# --- migration ----------------------------------------------------------------------------------


def test_migration_writes_once(tmp_path: Path) -> None:
    first = run("migration", "--name", "caches", cwd=project(tmp_path))
    assert first.code == 0, first.err
    (path,) = (tmp_path / "supabase/migrations").glob("*_caches.sql")
    assert "unstale.watch" in path.read_text()

    again = run("migration", cwd=tmp_path)

    assert again.code == 0
    assert "nothing to write" in again.out
    assert "the database was not compared: DATABASE_URL is not set" in again.out


def test_migration_check_names_file_table_and_remedy(tmp_path: Path) -> None:
    """In a build: exit code 1 for what is missing or differs, 0 for what matches; nothing is written."""
    folder = tmp_path / "supabase/migrations"
    missing = run("migration", "--check", cwd=project(tmp_path))
    assert missing.code == 1
    assert "unstale.toml:2: no migration in supabase/migrations watches public.profiles" in missing.out
    assert "run `unstale migration` and commit the files it writes" in missing.out
    assert "unstale_captures.sql: unstale's own migration is missing" in missing.out
    assert not folder.exists()

    assert run("migration", cwd=tmp_path).code == 0
    same = run("migration", "--check", "--json", cwd=tmp_path)
    assert same.code == 0
    assert json.loads(same.out)["differences"] == []
    assert "DATABASE_URL is not set" in json.loads(same.out)["database_not_compared"]

    away = {"DATABASE_URL": "postgresql://unstale:s3cr3t@127.0.0.1:1/app"}
    unknown = run("migration", "--check", cwd=tmp_path, settings=away)
    assert unknown.code == 1, unknown.out
    assert "the migrations match the rules" in unknown.out
    assert "the database was not compared: cannot connect to Postgres" in unknown.out
    assert "`--offline` compares the files only" in unknown.out
    assert run("migration", "--check", "--offline", cwd=tmp_path, settings=away).code == 0

    (captures,) = folder.glob("*_unstale_captures.sql")
    captures.write_text(captures.read_text() + "-- of an earlier version\n")
    project(tmp_path, PROFILES.replace("{id}", "{name}"))
    files = sorted(folder.iterdir())
    differs = json.loads((ended := run("migration", "--check", "--json", cwd=tmp_path)).out)["differences"]
    assert ended.code == 1
    assert [each["table"] for each in differs if each["table"]] == ["public.profiles"]
    assert any(each["file"].endswith("*_unstale_captures.sql") for each in differs)
    assert sorted(folder.iterdir()) == files

    assert "every watch is written again" in run("migration", cwd=tmp_path).out
    assert run("migration", "--check", cwd=tmp_path).code == 0


async def test_migration_says_what_the_database_lacks(tmp_path: Path, database: Database) -> None:
    """Not "nothing changed": the files match the rules, but the database has lost a capture."""
    settings = {"DATABASE_URL": database.worker_dsn}
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute(TABLES)
        assert run("migration", cwd=project(tmp_path), settings=settings).code == 0
        (file,) = (tmp_path / "supabase/migrations").glob("*_unstale_watches.sql")
        await connection.execute(file.read_text())
        for arguments in (["migration"], ["migration", "--check"]):
            ended = run(*arguments, cwd=tmp_path, settings=settings)
            assert ended.code == 0, ended.out
            assert "not compared" not in ended.out

        await connection.execute("select unstale.unwatch('profiles')")
        again = run("migration", cwd=tmp_path, settings=settings)
        assert again.code == 0  # so that `unstale migration && supabase db push` goes on
        assert "unstale.toml:2: the database does not watch public.profiles" in again.out
        assert "unstale migration --all" in again.out
        assert run("migration", "--check", cwd=tmp_path, settings=settings).code == 1
        assert run("migration", "--check", "--offline", cwd=tmp_path, settings=settings).code == 0

        assert run("migration", "--all", cwd=tmp_path, settings=settings).code == 0
        await connection.execute(sorted((tmp_path / "supabase/migrations").iterdir())[-1].read_text())
        assert run("migration", "--check", cwd=tmp_path, settings=settings).code == 0
    finally:
        await connection.close()


WRONG_NAMES = """
[[watch]]
table = "profiles"
keys = ["user:{idd}:profile"]
columns = ["nam"]
[[watch]]
table = "profile"
keys = ["user:{id}:settings"]
[[watch]]
table = "later"
keys = ["later:{id}:{note}"]
"""


async def test_migration_refuses_names_that_nothing_has(tmp_path: Path, database: Database) -> None:
    """The file could not be applied, and would stand in the way of every later one."""
    settings = {"DATABASE_URL": database.worker_dsn}
    folder = tmp_path / "supabase/migrations"
    folder.mkdir(parents=True)
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute(TABLES)
    finally:
        await connection.close()
    (folder / "20200101000000_later.sql").write_text('create table "later" (id int primary key, note text)')
    for arguments in (["migration"], ["migration", "--all"], ["migration", "--check"]):
        ended = run(*arguments, cwd=project(tmp_path, WRONG_NAMES), settings=settings)
        assert ended.code == 2, ended.out
        for line in (
            "unstale.toml:2: public.profiles has no column idd; did you mean id?",
            "unstale.toml:2: public.profiles has no column nam; did you mean name?",
            "unstale.toml:6: there is no table public.profile; did you mean public.profiles?",
            "Nothing was written.",
        ):
            assert line in ended.err
        assert "later" not in ended.err  # a file that is not applied yet makes it
        assert len(list(folder.iterdir())) == 1

    right = WRONG_NAMES.replace("idd", "id").replace('"nam"', '"name"').replace('"profile"', '"profiles"')
    assert run("migration", cwd=project(tmp_path, right), settings=settings).code == 0
    # unstale's own files, which contain every usual name, tell nothing about the user's tables.
    assert (
        run("migration", cwd=project(tmp_path, right.replace("{id}", "{keys}")), settings=settings).code == 2
    )
    # Without a database the files alone decide, as in a build.
    assert run("migration", "--offline", cwd=project(tmp_path, WRONG_NAMES), settings=settings).code == 0


# --- worker -------------------------------------------------------------------------------------


def worker_settings(database: Database, redis_url: str, **more: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database.worker_dsn,
        "REDIS_URL": redis_url,
        "UNSTALE_HTTP_PORT": "0",
        **more,
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_worker_applies_changes_and_ends_in_order(
    tmp_path: Path, database: Database, redis_url: str, number: signal.Signals
) -> None:
    connection = await asyncpg.connect(database.dsn)
    await connection.execute(SCHEMA)
    settings = worker_settings(database, redis_url, UNSTALE_HTTP_TOKEN="secret")
    async with started("worker", cwd=project(tmp_path), settings=settings) as worker:
        assert worker.process.stderr is not None
        said: list[dict[str, object]] = []
        while not said or "http" not in said[-1]:
            said.append(json.loads(await worker.process.stderr.readline()))
        url = said[-1]["http"]
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as session:

            async def ready() -> bool:
                async with session.get(f"{url}/readyz") as response:
                    return response.status == 200

            await eventually(ready)
            async with Redis.from_url(redis_url) as redis:
                await redis.set("user:42:profile", "{}", ex=100)
                await connection.execute("insert into profiles (id) values (42)")

                async def gone() -> bool:
                    return not await redis.exists("user:42:profile")

                await eventually(gone)

        assert await worker.end(number) == 0

    async with Redis.from_url(redis_url) as redis:
        assert not await redis.exists("{unstale:0}:leader")  # given up, so that a standby need not wait
    await connection.close()


async def test_a_missing_migration_stops_the_worker_with_2(
    tmp_path: Path, database: Database, redis_url: str
) -> None:
    settings = worker_settings(database, redis_url)
    async with started("worker", cwd=project(tmp_path), settings=settings) as worker:
        await worker.rest()
        assert await worker.process.wait() == 2
        assert "public.profiles is not watched" in await worker.errors()


async def test_a_taken_port_stops_the_worker_with_1(
    tmp_path: Path, database: Database, redis_url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = worker_settings(database, redis_url, UNSTALE_HTTP_PORT=str(taken.getsockname()[1]))
        async with started("worker", cwd=project(tmp_path), settings=settings) as worker:
            await worker.rest()
            assert await worker.process.wait() == 1
            assert "UNSTALE_HTTP_PORT" in await worker.errors()


# --- dev ----------------------------------------------------------------------------------------


async def test_dev_serves_a_project_and_leaves_nothing(tmp_path: Path) -> None:
    project(tmp_path)
    migrations = tmp_path / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    (migrations / "20260101000000_tables.sql").write_text(TABLES)
    assert run("migration", cwd=tmp_path).code == 0
    async with started("dev", "--port", "0", cwd=tmp_path) as dev:
        url = (await dev.line("DATABASE_URL=")).partition("=")[2]
        redis_url = (await dev.line("REDIS_URL=")).partition("=")[2]
        family = dev.family()
        connection = await asyncpg.connect(url)
        async with Redis.from_url(redis_url) as redis:
            await redis.set("user:7:profile", "{}", ex=100)
            await connection.execute("insert into profiles (id) values (7)")

            async def gone() -> bool:
                return not await redis.exists("user:7:profile")

            await eventually(gone)
        await connection.close()

        assert await dev.end(signal.SIGINT) == 0
        await all_gone(family)


@pytest.mark.parametrize(
    ("migration", "said"),
    [(TABLES, "is not watched"), ("create tabel broken ();", "20260101000000_tables.sql")],
)
async def test_dev_says_what_its_migrations_lack(tmp_path: Path, migration: str, said: str) -> None:
    project(tmp_path)
    migrations = tmp_path / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    (migrations / "20260101000000_tables.sql").write_text(migration)

    ended = run("dev", "--port", "0", cwd=tmp_path)

    assert ended.code == 2
    assert said in ended.err
    assert "DATABASE_URL=" not in ended.out


async def test_dev_ends_at_once_while_it_starts(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "supabase").mkdir()
    (tmp_path / "supabase" / "seed.sql").write_text("select pg_sleep(3600)")
    async with started("dev", "--port", "0", cwd=tmp_path) as dev:
        await eventually(lambda: len(dev.family()) > 1)
        family = dev.family()

        assert await dev.end(signal.SIGINT) == 0

        assert "DATABASE_URL=" not in "\n".join(dev.lines)
        assert await dev.errors() == ""
        await all_gone(family)


async def test_a_killed_dev_leaves_nothing(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "supabase" / "migrations").mkdir(parents=True)
    (tmp_path / "supabase" / "migrations" / "20260101000000_tables.sql").write_text(TABLES)
    assert run("migration", cwd=tmp_path).code == 0
    async with started("dev", "--port", "0", cwd=tmp_path) as dev:
        await dev.line("REDIS_URL=")
        family = dev.family()
        dev.process.kill()
        await all_gone(family)


# --- dead letters -------------------------------------------------------------------------------


def test_dead_letters_are_shown_retried_and_dropped(tmp_path: Path, redis_url: str) -> None:
    names, settings = Names(), {"REDIS_URL": redis_url}
    with redis_sync.Redis.from_url(redis_url) as redis:
        assert run("dead-letters", cwd=tmp_path, settings=settings).out == "no dead letters\n"
        for number in (1, 2):
            letter = {
                "key": f"k{number}",
                "pattern": "k{n}",
                "error": "[no]",
                "attempts": 5,
                "at": 1_000 * number,
            }
            redis.hset(names.dead_letters, f"k{number}", json.dumps(letter))

        shown = run("dead-letters", cwd=tmp_path, settings=settings)
        assert shown.out.splitlines() == [
            "k2  1970-01-01 00:00:02 UTC, after 5 attempts: [no]",
            "k1  1970-01-01 00:00:01 UTC, after 5 attempts: [no]",
        ]
        listed = json.loads(run("dead-letters", "list", "--json", cwd=tmp_path, settings=settings).out)
        assert [letter["key"] for letter in listed["dead_letters"]] == ["k2", "k1"]

        retried = run("dead-letters", "retry", "k1", "--json", cwd=tmp_path, settings=settings)
        assert json.loads(retried.out) == {"key": "k1", "found": True}
        assert redis.zscore(names.refresh, "k1") is not None
        assert run("dead-letters", "drop", "k2", cwd=tmp_path, settings=settings).out == "k2: done\n"
        assert not redis.exists(names.dead_letters)
        assert run("dead-letters", "drop", "k2", cwd=tmp_path, settings=settings).code == 1
        assert run("dead-letters", "retry", cwd=tmp_path, settings=settings).code == 2


def test_a_refresh_worker_says_what_it_lacks(tmp_path: Path, redis_url: str) -> None:
    settings = {"REDIS_URL": redis_url, "UNSTALE_HTTP_PORT": "0"}
    nothing = run("worker", "--role", "refresh", cwd=project(tmp_path), settings=settings)
    assert nothing.code == 2
    assert "names no loader for a refresh worker" in nothing.err

    rules = f'{PROFILES}\n[refresh."user:{{id}}:profile"]\nloader = "absent_module:profile"\n'
    absent = run("worker", "--role", "refresh", cwd=project(tmp_path, rules), settings=settings)
    assert absent.code == 2
    assert 'refresh."user:{id}:profile".loader' in absent.err
    assert "absent_module" in absent.err
    assert "Traceback" not in absent.err

"""The README runs as printed: its rules, its commands, its code and what that says."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from servers import eventually
from unstale_worker.dev_servers import EmbeddedPostgres
from unstale_worker.migration.writer import write_migration
from unstale_worker.rules import Rules
from workers.commands import Command, environment, run, started

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
TABLES = """
create table profiles (id bigint primary key, name text not null);
create table organizations (id bigint primary key, plan text);
create table members (org_id bigint, user_id bigint);
alter table members enable row level security;
insert into profiles values (42, 'Ada');
"""


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no {language} block any more"
    return found


def commands() -> list[list[str]]:
    return [
        line.partition("#")[0].split()
        for block in blocks("shell")
        for line in block.splitlines()
        if line.strip()
    ]


@asynccontextmanager
async def service(*arguments: str, cwd: Path, settings: dict[str, str]) -> AsyncIterator[str]:
    """Run ``uvicorn`` with these arguments on a free port; its URL, once all processes are there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", *arguments, "--port", "0", "--no-use-colors",
        cwd=cwd, env=environment(**settings), start_new_session=True,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    command = Command(process)
    try:
        (url,) = re.findall(r"http://[\d.:]+", await command.line("Uvicorn running on"))
        for _ in range(int(arguments[-1])):
            await command.line("Application startup complete")
        yield url
        assert await command.end(signal.SIGTERM) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def answers(url: str) -> set[str]:
    """Ask over many connections, so that each process of a service answers."""

    async def answer() -> str:
        async with aiohttp.request("GET", url) as response:
            return await response.text()

    return set(await asyncio.gather(*(answer() for _ in range(20))))


async def played(session: str, *, cwd: Path, settings: dict[str, str]) -> None:
    """Run a session of a terminal; after each ``curl`` all processes give the answer that is shown."""
    lines = session.splitlines()
    assert {line.split()[1] for line in lines if line.startswith("$ ")} == {"uvicorn", "curl", "psql"}
    _, start, *rest = shlex.split(lines[0])
    assert start == "uvicorn"
    async with service(*rest, cwd=cwd, settings=settings) as url:
        for line, shown in zip(lines[1:], [*lines[2:], ""], strict=True):
            match shlex.split(line, comments=True) if line.startswith("$ ") else []:
                case ["$", "curl", address]:
                    address = address.replace("localhost:8000", url)
                    await eventually(partial(_answer, address, shown), message=f"{address}: {shown}")
                case ["$", "psql", "$DATABASE_URL", "-c", statement]:
                    connection = await asyncpg.connect(settings["DATABASE_URL"])
                    await connection.execute(statement)
                    await connection.close()
                case []:
                    pass
                case words:
                    raise AssertionError(f"no test knows what to do with {words}")


async def _answer(url: str, wanted: str) -> bool:
    return await answers(url) == {wanted}


async def test_three_steps_and_the_code_does_what_it_says(tmp_path: Path) -> None:
    """A project of one's own, by the README: its rules, its migration, its servers, its code."""
    (rules,) = blocks("toml")
    (code,) = blocks("python")
    (session,) = blocks("console")
    (tmp_path / "main.py").write_text(code)
    (tmp_path / "unstale.toml").write_text(rules)
    migrations = tmp_path / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    (migrations / "20260101000000_tables.sql").write_text(TABLES)
    assert run("migration", cwd=tmp_path).code == 0
    async with started("dev", "--port", "0", cwd=tmp_path) as dev:
        servers = {
            name: (await dev.line(f"{name}=")).partition("=")[2] for name in ("DATABASE_URL", "REDIS_URL")
        }

        await played(session, cwd=tmp_path, settings=servers)

        doctor = run("doctor", cwd=tmp_path, settings=servers)
        assert doctor.code == 0, doctor.out
        assert await dev.end(signal.SIGINT) == 0


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_exists(words: list[str], tmp_path: Path) -> None:
    match words:
        case ["unstale", command, *options]:
            page = run(command, "--help", cwd=tmp_path)
            assert page.code == 0
            assert all(option in page.out for option in options if option.startswith("--"))
        case ["pip", "install", *packages]:
            assert {name.partition("[")[0].strip("'") for name in packages} <= {".", "fastapi", "uvicorn"}
        case ["cd", folder]:
            assert (ROOT / folder).is_dir()
        case ["python3", "-m", "venv", *_] | [".", _] | ["set", *_] | ["curl" | "psql", *_]:
            pass  # the machine's own; what they do is played above and by the recipes' tests
        case ["uvicorn", application, *_]:
            assert application == "main:app"
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["supabase", "db", "push"]:
            pass  # not ours
        case _:
            raise AssertionError(f"no test knows what to do with {words}")


def test_every_command_of_the_command_line_is_somewhere_on_a_page(tmp_path: Path) -> None:
    pages = TEXT + "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    help_text = run("--help", cwd=tmp_path).out
    names = re.findall(r"^[│ ]+([a-z]+)  +[A-Z]", help_text, re.MULTILINE)
    assert {"demo", "dev", "worker", "migration", "doctor", "stats", "tail"} <= set(names)
    for name in names:
        assert f"unstale {name}" in pages, name


def test_the_first_sixty_lines_hold_what_somebody_choosing_wants() -> None:
    first = "\n".join(TEXT.splitlines()[:60])
    for wanted in (
        "```python",
        "make demo",
        "make test",
        "| promised | not promised |",
        "To stop it",
        "Tested with",
    ):
        assert wanted in first, wanted
    assert max(map(len, first.splitlines()[:10])) <= 125


async def _administers(server: EmbeddedPostgres) -> None:
    """``postgres`` may grant and drop the role, as who has made one may: here it made it as a superuser."""
    connection = await asyncpg.connect(server.superuser_dsn)
    try:
        await connection.execute("grant unstale_worker to postgres with admin option, inherit false")
    finally:
        await connection.close()


@pytest.mark.parametrize("role", ["postgres", "superuser"])
async def test_taking_it_out_leaves_nothing_of_it(
    own_postgres: EmbeddedPostgres, tmp_path: Path, role: str
) -> None:
    """The SQL of docs/operations.md, on a database that `unstale migration` wrote for: a watch, a fan-out."""
    page = (ROOT / "docs" / "operations.md").read_text()
    out = page.partition("## Taking it out")[2].partition("```sql\n")[2].partition("```")[0]
    (rules,) = blocks("toml")
    written = write_migration(Rules.parse(rules), tmp_path).path
    assert written is not None
    await _administers(own_postgres)
    connection = await asyncpg.connect(
        own_postgres.dsn() if role == "postgres" else own_postgres.superuser_dsn
    )
    try:
        await connection.execute(TABLES)
        await connection.execute(written.read_text())
        await connection.execute("update profiles set name = 'Grace'")
        assert await connection.fetchval("select count(*) from pg_policy") > 0

        await connection.execute(out)

        left = await connection.fetchval(
            "select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace "
            "where n.nspname = 'unstale' or p.proname like 'unstale%'"
        )
        assert left == 0
        assert await connection.fetchval("select count(*) from pg_policy") == 0
        assert (
            await connection.fetchval("select count(*) from pg_roles where rolname = 'unstale_worker'") == 0
        )
        triggers = await connection.fetchval("select count(*) from pg_trigger where not tgisinternal")
        assert triggers == 0
        await connection.execute("update profiles set name = 'Ada'")
    finally:
        await connection.close()

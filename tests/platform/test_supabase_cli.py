"""Migrations go as Supabase users send them: the official CLI pushes them, and its advisors are content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import asyncpg
import pytest

from services.programs import REPOSITORY, run, supabase_cli
from unstale_worker.dev_servers import EmbeddedPostgres, migrations_folder
from unstale_worker.migration.writer import write_migration
from unstale_worker.rules import Rules
from workers import connected

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[[watch]]
table = "public.organizations"
keys = ["user:{user_id}:settings"]
query = "select user_id from public.members where org_id = {id}"
"""

TABLES = """
create table public.profiles (id bigint primary key, name text);
create table public.organizations (id bigint primary key, name text);
create table public.members (
    org_id bigint not null references public.organizations,
    user_id bigint not null,
    primary key (org_id, user_id)
);
alter table public.profiles enable row level security;
alter table public.organizations enable row level security;
alter table public.members enable row level security;
create policy own on public.profiles for select to authenticated using (id = 1);
create policy everybody on public.organizations for select to authenticated using (id > 0);
create policy everybody on public.members for select to authenticated using (org_id > 0);
"""

OPEN_FUNCTION = """
create function public.leak() returns bigint language sql security definer
as $$ select count(*) from public.profiles $$;
grant execute on function public.leak() to anon;
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's project: its own migration first, then what ``unstale migration`` writes."""
    migrations = tmp_path / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    shutil.copy(REPOSITORY / "supabase" / "config.toml", tmp_path / "supabase")
    (migrations / "20260101000000_tables.sql").write_text(TABLES)
    written = write_migration(Rules.parse(RULES), migrations, base=migrations_folder())
    assert written.path is not None
    return tmp_path


async def test_pushed_once_and_again(project: EmbeddedPostgres, folder: Path) -> None:
    cli, dsn = supabase_cli(), project.dsn()
    pushed = await run(cli, "db", "push", f"--remote={dsn}", "--yes", cwd=folder)
    assert pushed.returncode == 0, pushed.stderr
    again = await run(cli, "db", "push", f"--remote={dsn}", "--yes", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "up to date" in again.stdout
    async with connected(dsn) as connection:
        files = sorted(path.name.partition("_")[0] for path in (folder / "supabase/migrations").iterdir())
        known = await connection.fetch("select version from supabase_migrations.schema_migrations order by 1")
        assert [row[0] for row in known] == files
        await connection.execute("insert into profiles values (7, 'Ada')")
        entry = "select keys from unstale.outbox order by xid desc, id desc limit 1"
        assert await connection.fetchval(entry) == ["7"]
        assert await connection.fetch("select * from unstale.check() where severity = 'error'") == []


async def test_advisors_have_nothing_to_warn_of(project: EmbeddedPostgres, folder: Path) -> None:
    cli, dsn = supabase_cli(), project.dsn()
    pushed = await run(cli, "db", "push", f"--remote={dsn}", "--yes", cwd=folder)
    assert pushed.returncode == 0, pushed.stderr
    advise = (
        cli,
        "db",
        "advisors",
        f"--remote={dsn}",
        "--type",
        "all",
        "--level",
        "info",
        "--fail-on",
        "warn",
    )
    found = await run(*advise, cwd=folder)
    assert found.returncode == 0, found.stdout
    assert {advice["name"] for advice in json.loads(_json_of(found.stdout))} <= {
        # Private tables without a policy: nobody but the schema's own functions reads them.
        "rls_enabled_no_policy",
        # An index of a table that is minutes old.
        "unused_index",
        # Row types of the user's tables above, not ours.
        "unindexed_foreign_keys",
    }
    # They do look: a function that anybody may call with its owner's rights is found.
    async with connected(dsn) as connection:
        await connection.execute(OPEN_FUNCTION)
    found = await run(*advise, cwd=folder)
    assert found.returncode == 1, found.stdout
    assert "public.leak" in found.stdout


def _json_of(output: str) -> str:
    """The list in what the command prints around it."""
    return output[output.index("[") : output.rindex("]") + 1]


async def test_a_push_that_fails_leaves_nothing_half_done(project: EmbeddedPostgres, folder: Path) -> None:
    """The rules watch a table that no migration creates: the file fails whole, and says which."""
    (folder / "supabase/migrations/20260101000000_tables.sql").unlink()
    dsn = project.dsn()
    pushed = await run(supabase_cli(), "db", "push", f"--remote={dsn}", "--yes", cwd=folder)
    assert pushed.returncode == 1
    assert "profiles" in pushed.stdout + pushed.stderr
    async with connected(dsn) as connection:
        assert await connection.fetchval("select count(*) from unstale.watched") == 0
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.execute("select from profiles")

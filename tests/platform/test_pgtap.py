"""The pgTAP tests in ``supabase/tests``, which users run with `supabase test db`, run by ``pg_prove``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.programs import REPOSITORY, pg_prove, run
from unstale_worker.dev_servers import EmbeddedPostgres, migrate
from workers import connected

TESTS = sorted((REPOSITORY / "supabase" / "tests").glob("*.sql"))

SABOTAGE = """
grant usage on schema unstale to anon;
alter table unstale.outbox disable row level security;
alter function unstale.token() reset search_path;
"""


# The extension is Debian's, for Debian's own Postgres.
@pytest.mark.parametrize("project", ["15"], indirect=True)
async def test_grants_policies_and_captures(project: EmbeddedPostgres, tmp_path: Path) -> None:
    program = pg_prove()
    await migrate(project, database="postgres")
    async with connected(project.superuser_dsn) as connection:
        await connection.execute(
            "create schema extensions; create extension pgtap schema extensions; "
            "grant usage on schema extensions to public"
        )
    server = urlsplit(project.dsn())
    to_server = ("-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "-d", "postgres")
    command: tuple[str | Path, ...] = (program, *to_server, *TESTS)
    proved = await run(*command, cwd=tmp_path, environment={"PGPASSWORD": project.password})
    assert proved.returncode == 0, proved.stdout + proved.stderr
    assert "Result: PASS" in proved.stdout
    # They can fail: rights that were opened and a table without its policies are found.
    async with connected(project.dsn()) as connection:
        await connection.execute(SABOTAGE)
    proved = await run(*command, cwd=tmp_path, environment={"PGPASSWORD": project.password})
    assert proved.returncode != 0
    for found in ("anon cannot use the schema", "every table has row level security", "empty search_path"):
        assert found in proved.stderr + proved.stdout

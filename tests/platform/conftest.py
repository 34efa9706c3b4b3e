"""A bare server with Supabase's roles, as a new project has them, for each supported way of the platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from servers import run_apart
from unstale_worker.dev_servers import EmbeddedPostgres

VERSIONS = ["15", "17"] if Path("/usr/lib/postgresql/15/bin/postgres").exists() else ["17"]


@pytest.fixture(params=VERSIONS)
def project(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A project's database before anything was pushed; ``postgres`` may create event triggers, as there."""
    server = EmbeddedPostgres(version=request.param, settings={"fsync": "off"})
    run_apart(server.__aenter__())
    try:
        run_apart(_like_the_platform(server))
        yield server
    finally:
        run_apart(server.close())


async def _like_the_platform(server: EmbeddedPostgres) -> None:
    await server.create_supabase_roles()
    connection = await asyncpg.connect(server.superuser_dsn)
    try:
        # Without it the advisors do not know which schemas the API exposes, and say nothing of them.
        await connection.execute("alter database postgres set pgrst.db_schemas = 'public'")
        # On the platform an extension lets this role create event triggers.
        await connection.execute("alter role postgres superuser")
    finally:
        await connection.close()

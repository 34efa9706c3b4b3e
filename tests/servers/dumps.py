"""Dumps of a test's database, made and restored with the server's own pg_dump and pg_restore."""

import asyncio
import subprocess
from pathlib import Path

from servers import Database


async def dump(database: Database, file: Path, *options: str) -> Path:
    """Write a dump of the whole database in pg_dump's own format."""
    await _run(database, "pg_dump", "--format=custom", f"--file={file}", *options, database.superuser_dsn)
    return file


async def restore(database: Database, file: Path, *options: str, errors: bool = False) -> None:
    """Restore a dump as the superuser, where ``postgres`` may own event triggers as on Supabase.

    With ``errors``, single objects may fail to be restored.
    """
    async with database.server.event_triggers_allowed():
        await _run(
            database, "pg_restore", f"--dbname={database.superuser_dsn}", *options, str(file), errors=errors
        )


async def load(database: Database, file: Path) -> None:
    """Run a dump in plain SQL as the superuser, in one transaction."""
    async with database.server.event_triggers_allowed():
        await _run(
            database, "psql", "--quiet", "--no-psqlrc", "--single-transaction", "--set=ON_ERROR_STOP=1",
            f"--file={file}", database.superuser_dsn,
        )  # fmt: skip


async def _run(database: Database, program: str, *arguments: str, errors: bool = False) -> None:
    command = [str(database.server.programs / program), *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
    if done.returncode and not errors:
        raise AssertionError(f"{program} failed: {done.stderr[-2000:]}")

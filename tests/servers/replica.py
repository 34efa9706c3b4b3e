"""A streaming standby of a test's own Postgres, whose replay can be paused."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from servers import eventually
from unstale_worker.dev_servers import EmbeddedPostgres
from workers import connected


@asynccontextmanager
async def standby_of(primary: EmbeddedPostgres, **settings: str | int) -> AsyncIterator[EmbeddedPostgres]:
    """Restart ``primary`` to copy it cold, and run a hot standby from the copy; wait until it streams."""
    await primary.stop()
    copy = await primary.save_data("for-standby")
    await primary.start()
    with tempfile.TemporaryDirectory(prefix="unstale-standby-", dir="/var/tmp") as name:
        folder = Path(name)
        await asyncio.to_thread(_prepare, folder, copy, primary.password)
        address = f"host=127.0.0.1 port={primary.port} user=supabase_admin password={primary.password}"
        standby = EmbeddedPostgres(
            directory=folder,
            settings={
                "fsync": "off",
                "primary_conninfo": address,
                "wal_retrieve_retry_interval": "100ms",
                "hot_standby_feedback": "on",
                **settings,
            },
        )
        await standby.__aenter__()
        try:
            await streaming(primary)
            yield standby
        finally:
            await standby.kill()
            await standby.close()


def _prepare(folder: Path, copy: Path, password: str) -> None:
    folder.chmod(0o711)
    # Copied, not moved: the primary's folder may lie on another file system.
    subprocess.run(["cp", "-a", str(copy), str(folder / "data")], check=True)
    signal = folder / "data" / "standby.signal"
    signal.touch()
    owner = copy.stat()
    os.chown(signal, owner.st_uid, owner.st_gid)
    (folder / "password").write_text(password)


async def streaming(primary: EmbeddedPostgres) -> None:
    """Wait until a standby receives the WAL as it is written."""
    async with connected(primary.superuser_dsn) as db:
        await eventually(
            lambda: db.fetchval("select count(*) from pg_stat_replication where state = 'streaming'"),
            message="the standby streams",
        )


async def pause(standby: asyncpg.Connection) -> None:
    """Pause the standby's replay, and wait until it has stopped."""
    await standby.execute("select pg_wal_replay_pause()")
    await eventually(
        lambda: standby.fetchval("select pg_get_wal_replay_pause_state() = 'paused'"),
        message="the standby stands still",
    )


async def resume(standby: asyncpg.Connection) -> None:
    """Resume the standby's replay."""
    await standby.execute("select pg_wal_replay_resume()")

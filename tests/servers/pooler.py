"""A real PgBouncer in front of a test's Postgres: a transaction pooler, as on Supabase's port 6543."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

import asyncpg
import pytest

from servers import eventually
from unstale_worker.dev_servers.places import unprivileged_user
from unstale_worker.dev_servers.process import free_port


def pgbouncer() -> str:
    """Return the path of PgBouncer. If it is missing, fail in CI, else skip the test."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("PgBouncer is not installed: apt-get install pgbouncer")
        pytest.skip("PgBouncer is not installed (apt-get install pgbouncer, brew install pgbouncer)")
    return found


@asynccontextmanager
async def pooled(dsn: str, *, size: int = 3) -> AsyncIterator[str]:
    """Start PgBouncer in transaction mode with ``size`` server connections, and yield a DSN through it."""
    parts = urlsplit(dsn)
    port = free_port()
    program = pgbouncer()
    with tempfile.TemporaryDirectory(prefix="unstale-pgbouncer-") as name:
        process = await asyncio.to_thread(_start, program, Path(name), parts, port=port, size=size)
        through = urlunsplit(parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{port}"))
        try:

            async def answers() -> bool:
                assert process.poll() is None, "PgBouncer ended"
                try:
                    connection = await asyncpg.connect(through, statement_cache_size=0, timeout=2)
                except (OSError, asyncpg.PostgresError):
                    return False
                await connection.close()
                return True

            await eventually(answers, message="PgBouncer answers")
            yield through
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


def _start(program: str, folder: Path, to: SplitResult, *, port: int, size: int) -> subprocess.Popen[bytes]:
    user = unprivileged_user()  # it refuses to run as root
    (folder / "users.txt").write_text(f'"{to.username}" "{to.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={to.hostname} port={to.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\n"
        f"pool_mode = transaction\ndefault_pool_size = {size}\nmin_pool_size = {size}\n"
        "ignore_startup_parameters = extra_float_digits\nserver_round_robin = 1\n"
    )
    if user is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, user.uid, user.gid)
    return subprocess.Popen(
        [program, str(folder / "pgbouncer.ini")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user.uid if user else None,
        group=user.gid if user else None,
    )

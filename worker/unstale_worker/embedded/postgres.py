"""A real Postgres of one's own: started on a free loopback port, ended and removed with its user."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import asyncpg

from unstale.errors import EmbeddedServerError
from unstale_worker.embedded.installs import PostgresVersion, find_postgres
from unstale_worker.embedded.places import make_folder, unprivileged_user
from unstale_worker.embedded.process import Guard, free_port, tail

SUPERUSER = "supabase_admin"
PROJECT_ROLE = "postgres"

START_SECONDS = 30.0  # it takes 0.04 s; this is for crash recovery on a busy machine
STOP_SECONDS = 10.0
PORT_ATTEMPTS = 5

_SETTINGS: Mapping[str, str | int] = {
    "wal_level": "logical",
    "max_connections": 100,
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_ROLES = Path(__file__).with_name("roles.sql")


class EmbeddedPostgres:
    """One Postgres server, as Supabase sets it up.

    The bootstrap superuser is ``supabase_admin``; `create_supabase_roles` adds ``postgres``, the project role
    that is no superuser, and the API's roles. One random password serves them all. It keeps its port, its
    password and its data over `kill`, `stop` and `start`.

        async with EmbeddedPostgres(settings={"fsync": "off"}) as server:
            await server.create_supabase_roles()
            connection = await asyncpg.connect(server.dsn())

    Bound to no event loop: each method may be awaited on another one.

    Args:
        directory: Holds the data (in ``data``) and stays; None: a temporary one that is removed.
        settings: Beats the defaults ``wal_level=logical``, ``max_connections=100``, time zone UTC.
        version: The major version, of a wheel or on PATH.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        settings: Mapping[str, str | int] | None = None,
        version: PostgresVersion = "18",
    ) -> None:
        self.version = version
        self.port = 0
        self.pid = 0
        self.password = ""
        self.settings = {**_SETTINGS, **(settings or {})}
        self.directory = directory
        self._user = unprivileged_user()
        self._guard: Guard | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedPostgres {self.version} port={self.port} pid={self.pid}>"

    async def __aenter__(self) -> Self:
        self._install = await asyncio.to_thread(find_postgres, self.version, user=self._user)
        self.directory, owned = make_folder(self.directory, prefix="unstale-postgres-", user=self._user)
        self._guard = Guard(owned=self.directory if owned else None)
        try:
            if not (self.data / "PG_VERSION").exists():
                await self._initialize()
            self.password = (self.directory / "password").read_text()
            await self.start()
        except BaseException:
            await self._guard.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def folder(self) -> Path:
        """The server's folder; the log and the data lie in it."""
        if self.directory is None:
            raise EmbeddedServerError("the server has no folder yet: use it inside its `async with`")
        return self.directory

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.folder / "postgres.log"

    def dsn(self, *, user: str = PROJECT_ROLE, database: str = "postgres") -> str:
        """A URL with the password; `database` and `user` are used as they are."""
        return f"postgresql://{user}:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def superuser_dsn(self) -> str:
        """A URL of the superuser, for the database ``postgres``."""
        return self.dsn(user=SUPERUSER)

    async def start(self) -> None:
        """Start on the port it had, or on a free one the first time; returns when it takes statements.

        Raises `EmbeddedServerError` with the end of the log.
        """
        deadline = time.monotonic() + START_SECONDS
        attempts = 1 if self.port else PORT_ATTEMPTS
        while True:
            port = self.port or free_port()
            since = self.log.stat().st_size if self.log.exists() else 0
            self.pid = await self._guarded.start(
                [
                    str(self._install.bin / "postgres"),
                    *("-D", str(self.data), "-h", "127.0.0.1", "-p", str(port), "-k", ""),
                    *(part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")),
                ],
                log=self.log,
                cwd=self.folder,
                user=self._user,
                last_signal=signal.SIGQUIT,  # immediate shutdown: frees its shared memory, waits for nobody
            )
            if await self._is_ready(port, deadline=deadline):
                self.port = port
                return
            said = self.log.read_text(errors="replace")[since:]
            attempts -= 1
            # After a crash the old server's last processes may hold on to memory or port for a moment.
            if "still in use" in said and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            elif attempts <= 0 or "Address already in use" not in said:
                await self._guarded.kill()
                raise EmbeddedServerError(
                    f"Postgres {self.version} did not start; its log ends:\n{tail(self.log)}"
                )

    async def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, everything is on disk. `start` starts it again."""
        await self._guarded.stop(signal.SIGINT, seconds=STOP_SECONDS)

    async def kill(self) -> None:
        """SIGKILL the server and all its processes, as a crash of the machine would."""
        await self._guarded.kill()

    async def running(self) -> bool:
        """Whether the server's process lives (it may be stopped by SIGSTOP, or still recovering)."""
        return self.pid != 0 and await self._guarded.exit_code() is None

    async def restart(self) -> None:
        """`stop` and `start`; after `kill`, start with crash recovery."""
        await self.stop()
        await self.start()

    async def close(self) -> None:
        """End it; remove its folder unless it was given. May be called again."""
        if self._guard is not None:
            try:
                await self.stop()
            except EmbeddedServerError:
                pass  # closed before, or the guard is gone and took the server along
            finally:
                await self._guard.close()

    async def create_supabase_roles(self) -> None:
        """Create Supabase's roles; ``postgres`` then owns the database ``postgres``. May be called again."""
        connection = await asyncpg.connect(self.superuser_dsn)
        try:
            async with connection.transaction():
                await connection.execute("select set_config('unstale.password', $1, true)", self.password)
                await connection.execute(_ROLES.read_text())
        finally:
            await connection.close()

    @asynccontextmanager
    async def event_triggers_allowed(self) -> AsyncIterator[None]:
        """Inside, ``postgres`` may create event triggers.

        On Supabase an extension of the server (supautils) allows it that; plain Postgres allows it superusers
        only. Making it one for as long leaves the same things with the same owner.
        """
        connection = await asyncpg.connect(self.superuser_dsn)
        try:
            await connection.execute("alter role postgres superuser")
            try:
                yield
            finally:
                await connection.execute("alter role postgres nosuperuser")
        finally:
            await connection.close()

    @property
    def _guarded(self) -> Guard:
        if self._guard is None:
            raise EmbeddedServerError("the server was never started: use it inside `async with`")
        return self._guard

    async def _initialize(self) -> None:
        """`initdb`, as the user that will run the server."""
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(16))
        self.data.mkdir(mode=0o700, exist_ok=True)
        if self._user is not None:
            os.chown(self.data, self._user.uid, self._user.gid)
            os.chown(password, self._user.uid, self._user.gid)
        guard, log = self._guarded, self.folder / "initdb.log"
        await guard.start(
            [
                str(self._install.bin / "initdb"),
                *("-D", str(self.data), "-U", SUPERUSER, "--pwfile", str(password)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
                *("--no-sync", "--no-instructions"),
            ],
            log=log,
            cwd=self.folder,
            user=self._user,
            last_signal=signal.SIGKILL,
        )
        while (code := await guard.exit_code()) is None:
            await asyncio.sleep(0.01)
        if code != 0:
            # Half a data directory would look like a whole one at the next start.
            await asyncio.to_thread(shutil.rmtree, self.data, ignore_errors=True)
            raise EmbeddedServerError(f"initdb failed; its output ends:\n{tail(log)}")

    async def _is_ready(self, port: int, *, deadline: float) -> bool:
        """Wait until *our* server takes statements; False when it ended or is too slow.

        Its own pid file says when; that what answers on the port is ours is proved by the password and by its
        data directory, before anything is written to it.
        """
        while time.monotonic() < deadline:
            if self._pid_file_says_ready(port):
                try:
                    connection = await asyncpg.connect(
                        host="127.0.0.1", port=port, user=SUPERUSER, password=self.password,
                        database="postgres", timeout=START_SECONDS,
                    )  # fmt: skip
                except asyncpg.InvalidPasswordError as error:
                    raise EmbeddedServerError(
                        f"another Postgres answers on port {port}, or the password file in {self.folder} is "
                        "not of these data: remove the folder, then start again"
                    ) from error
                try:
                    theirs = await connection.fetchval("show data_directory")
                finally:
                    await connection.close()
                if Path(theirs).resolve() != self.data.resolve():
                    raise EmbeddedServerError(f"another Postgres answers on port {port}: start again")
                return True
            if await self._guarded.exit_code() is not None:
                return False
            await asyncio.sleep(0.005)
        return False

    def _pid_file_says_ready(self, port: int) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return (
            len(lines) >= 8
            and lines[0] == str(self.pid)
            and lines[3] == str(port)
            and lines[7].strip() == "ready"
        )

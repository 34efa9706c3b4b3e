"""Applies a folder of migrations as the Supabase command line does, for databases of our own."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import asyncpg

from unstale.errors import ConfigurationError

_HISTORY = Path(__file__).with_name("history.sql")
_RECORD = Path(__file__).with_name("record.sql")


def migrations_folder() -> Path:
    """Where unstale's own migrations lie: inside the installed package, else in the checkout.

    Raises `ConfigurationError` when they are in neither.
    """
    spec = importlib.util.find_spec("unstale_worker")
    assert spec is not None
    package = Path(str(spec.origin)).resolve().parent
    for folder in (package / "migrations", package.parents[1] / "supabase" / "migrations"):
        if folder.is_dir():
            return folder
    raise ConfigurationError("unstale's migrations are missing from the installation: install it again")


async def apply_migrations(dsn: str, folder: Path) -> list[str]:
    """Apply the files of `folder` that `dsn`'s database has not recorded; returns their names.

    In the order of their names, each in a transaction of its own together with its record in
    ``supabase_migrations.schema_migrations``, so that the official command line continues where this stops.
    A failing file raises asyncpg's error with its name as a note; those before it stay applied.
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

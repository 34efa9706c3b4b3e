"""Applies a folder of migrations as the Supabase command line does, for databases of our own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import asyncpg

from unstale.errors import ConfigurationError

_HISTORY = Path(__file__).with_name("history.sql")


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
    applied: list[str] = []
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_HISTORY.read_text())
        for path in sorted(folder.glob("*.sql")):
            version, _, name = path.stem.partition("_")
            async with connection.transaction():
                recorded = await connection.fetchval(
                    "insert into supabase_migrations.schema_migrations (version, name, statements) "
                    "values ($1, $2, array[$3]) on conflict (version) do nothing returning version",
                    version, name, path.read_text(),
                )  # fmt: skip
                if recorded is None:
                    continue
                try:
                    await connection.execute(path.read_text())
                except asyncpg.PostgresError as error:
                    error.add_note(f"in migration {path.name}")
                    raise
            applied.append(path.name)
    finally:
        await connection.close()
    return applied

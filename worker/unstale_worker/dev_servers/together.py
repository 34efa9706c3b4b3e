"""Postgres and Valkey together, migrated and ready: what demo, ``unstale dev`` and benchmarks start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from unstale.protocol.names import WORKER_ROLE
from unstale_worker.dev_servers.installs import PostgresVersion
from unstale_worker.dev_servers.migrations import apply_migrations, migrations_folder
from unstale_worker.dev_servers.postgres import EmbeddedPostgres
from unstale_worker.dev_servers.valkey import EmbeddedValkey

_WORKER_LOGIN = Path(__file__).with_name("worker_login.sql")


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs. The URLs hold passwords, and are therefore no part of its repr."""

    database_url: str = field(repr=False)
    """As ``postgres``, the project role that owns the tables."""
    worker_database_url: str = field(repr=False)
    """As ``unstale_worker``, the role of the worker."""
    redis_url: str = field(repr=False)
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey


@asynccontextmanager
async def stack(
    *,
    directory: Path | None = None,
    migrations: Sequence[Path] = (),
    sql: str = "",
    settings: Mapping[str, str | int] | None = None,
    valkey_args: Sequence[str] = (),
    version: PostgresVersion = "18",
    event_triggers: bool = True,
) -> AsyncIterator[Stack]:
    """Start both servers; inside, unstale's migrations, those of `migrations` and `sql` are applied.

    Args:
        directory: Keeps Postgres's data in ``postgres`` below it; None: nothing is kept.
        migrations: The user's folders of migrations, applied after ours in the given order.
        sql: Statements run last, every time, as ``postgres``.
        settings: Postgres settings, for example ``{"fsync": "off"}``.
        valkey_args: Further arguments of Valkey.
        version: Postgres's major version.
        event_triggers: Whether ``postgres`` may create event triggers, as on Supabase.
    """
    home = None if directory is None else directory / "postgres"
    async with (
        EmbeddedPostgres(directory=home, settings=settings, version=version) as postgres,
        EmbeddedValkey(args=valkey_args) as valkey,
    ):
        await postgres.create_supabase_roles()
        await migrate(postgres, database="postgres", migrations=migrations, event_triggers=event_triggers)
        if sql:
            connection = await asyncpg.connect(postgres.dsn())
            try:
                await connection.execute(sql)
            finally:
                await connection.close()
        yield Stack(
            database_url=postgres.dsn(),
            worker_database_url=postgres.dsn(user=WORKER_ROLE),
            redis_url=valkey.url,
            postgres=postgres,
            valkey=valkey,
        )


async def migrate(
    postgres: EmbeddedPostgres,
    *,
    database: str,
    migrations: Sequence[Path] = (),
    event_triggers: bool = True,
) -> None:
    """Apply unstale's migrations and the given folders as ``postgres``, then let the worker's role log in."""

    async def apply() -> None:
        for folder in (migrations_folder(), *migrations):
            await apply_migrations(postgres.dsn(database=database), folder)

    if event_triggers:
        async with postgres.event_triggers_allowed():
            await apply()
    else:
        await apply()
    await postgres.run_file(_WORKER_LOGIN)

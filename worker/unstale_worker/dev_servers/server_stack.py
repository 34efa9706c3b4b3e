"""Postgres and Valkey together, migrated and ready, for the demo, ``unstale dev`` and benchmarks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from unstale.protocol.names import WORKER_ROLE
from unstale_worker.dev_servers.embedded_postgres import EmbeddedPostgres
from unstale_worker.dev_servers.embedded_valkey import EmbeddedValkey
from unstale_worker.dev_servers.installs import PostgresVersion
from unstale_worker.dev_servers.migrations import apply_migrations, migrations_folder

_WORKER_LOGIN = Path(__file__).with_name("worker_login.sql")


@dataclass(frozen=True, slots=True)
class Stack:
    """The running servers. The URLs contain passwords and are therefore not part of the repr."""

    database_url: str = field(repr=False)
    """URL for ``postgres``, the project role that owns the tables."""
    worker_database_url: str = field(repr=False)
    """URL for ``unstale_worker``, the role of the worker."""
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
    restricted: bool = False,
    cluster: bool = False,
) -> AsyncIterator[Stack]:
    """Start both servers and apply unstale's migrations, `migrations` and `sql`.

    Args:
        directory: Folder that keeps the data of Postgres in ``postgres`` below it; None: nothing is kept.
        migrations: The user's folders of migrations, applied after unstale's in the given order.
        sql: Statements that run last, on every start, as ``postgres``.
        settings: Postgres settings, for example ``{"fsync": "off"}``.
        valkey_args: Further arguments for Valkey.
        version: Major version of Postgres.
        event_triggers: Let ``postgres`` create event triggers, as on Supabase.
        restricted: Give the URL of a Redis user who may not call INFO or CONFIG, as on rented servers.
        cluster: Start a Redis Cluster of one node.
    """
    home = None if directory is None else directory / "postgres"
    async with (
        EmbeddedPostgres(directory=home, settings=settings, version=version) as postgres,
        EmbeddedValkey(args=valkey_args, restricted=restricted, cluster=cluster) as valkey,
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
            redis_url=valkey.restricted_url if restricted else valkey.url,
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
    """Apply unstale's migrations and the given folders as ``postgres``, then enable the worker's login."""

    async def apply() -> None:
        for folder in (migrations_folder(), *migrations):
            await apply_migrations(postgres.dsn(database=database), folder)

    if event_triggers:
        async with postgres.event_triggers_allowed():
            await apply()
    else:
        await apply()
    await postgres.run_file(_WORKER_LOGIN)

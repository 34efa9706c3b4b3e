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
from unstale_worker.dev_servers.migrations import apply_migrations, apply_seeds, ignore, migrations_folder
from unstale_worker.dev_servers.project import Project
from unstale_worker.dev_servers.running_sql import Tell

_WORKER_LOGIN = Path(__file__).with_name("worker_login.sql")
_OPEN_PUBLIC = Path(__file__).with_name("supabase") / "open_public.sql"


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


@dataclass(frozen=True, slots=True)
class Places:
    """Ports and password of servers that are started again and again; 0: a free port."""

    postgres: int = 0
    valkey: int = 0
    password: str | None = field(default=None, repr=False)


@asynccontextmanager
async def stack(
    *,
    directory: Path | None = None,
    project: Project | None = None,
    migrations: Sequence[Path] = (),
    sql: str = "",
    settings: Mapping[str, str | int] | None = None,
    valkey_args: Sequence[str] = (),
    version: PostgresVersion = "18",
    event_triggers: bool = True,
    restricted: bool = False,
    cluster: bool = False,
    places: Places | None = None,
    tell: Tell = ignore,
) -> AsyncIterator[Stack]:
    """Start both servers and apply unstale's migrations, `migrations` and `sql`, or a whole `project`.

    Args:
        directory: Folder that keeps the data of Postgres in ``postgres`` below it; None: nothing is kept.
        project: A Supabase project, with the schemas and roles that the platform gives it.
        migrations: The user's folders of migrations, applied after unstale's in the given order.
        sql: Statements that run last, on every start, as ``postgres``.
        settings: Postgres settings, for example ``{"fsync": "off"}``.
        valkey_args: Further arguments for Valkey.
        version: Major version of Postgres.
        event_triggers: Let ``postgres`` create event triggers, as on Supabase.
        restricted: Give the URL of a Redis user who may not call INFO or CONFIG, as on rented servers.
        cluster: Start a Redis Cluster of one node.
        places: Ports and password; None: free ports and a random password.
        tell: Receives sentences about what is left out of the project's files.
    """
    home, places = None if directory is None else directory / "postgres", places or Places()
    async with (
        EmbeddedPostgres(
            directory=home, settings=settings, version=version, supabase=project is not None,
            port=places.postgres, password=places.password,
        ) as postgres,
        EmbeddedValkey(
            args=valkey_args, restricted=restricted, cluster=cluster, port=places.valkey,
            password=places.password,
        ) as valkey,
    ):  # fmt: skip
        await postgres.create_supabase_roles()
        if project is not None:
            await set_up(postgres, project, database="postgres", tell=tell)
        else:
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


async def set_up(
    postgres: EmbeddedPostgres, project: Project, *, database: str, tell: Tell = ignore
) -> list[str]:
    """Make `database` a Supabase project with unstale's migrations and the project's; then run its seeds.

    Return the names of the project's migrations that were applied. May be called again, for migrations that
    were added. Raises `ConfigurationError` if a file fails.
    """
    await postgres.create_supabase_platform(database)
    if project.grants_new_tables:
        await postgres.run_file(_OPEN_PUBLIC, database=database)
    if project.roles is not None:
        await apply_seeds(postgres.dsn(database=database), [project.roles], tell=tell)
    folders = () if project.migrations is None else (project.migrations,)
    applied = await migrate(postgres, database=database, migrations=folders, tell=tell)
    for pattern in project.missing_seeds:
        tell(f"supabase/config.toml: no file matches {pattern!r} of [db.seed] sql_paths")
    await apply_seeds(postgres.dsn(database=database), project.seeds, tell=tell)
    return applied


async def migrate(
    postgres: EmbeddedPostgres,
    *,
    database: str,
    migrations: Sequence[Path] = (),
    event_triggers: bool = True,
    tell: Tell = ignore,
) -> list[str]:
    """Apply unstale's migrations and the given folders as ``postgres``, then enable the worker's login.

    Return the names of the files of the folders that were applied.
    """
    applied: list[str] = []

    async def apply() -> None:
        dsn = postgres.dsn(database=database)
        await apply_migrations(dsn, migrations_folder(), repeatable=True)
        for folder in migrations:
            applied.extend(await apply_migrations(dsn, folder, tell=tell))

    if event_triggers:
        async with postgres.event_triggers_allowed():
            await apply()
    else:
        await apply()
    await postgres.run_file(_WORKER_LOGIN)
    return applied

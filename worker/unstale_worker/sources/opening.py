"""Choose the source of changes and open it."""

from dataclasses import replace
from typing import TYPE_CHECKING

from unstale.errors import (
    ConfigurationError,
    DatabaseRefused,
    DatabaseUnavailable,
    SettingError,
    UnstaleError,
)
from unstale.runtime.project_url import project_url
from unstale.settings import OutboxSettings
from unstale_worker.runtime.logs import get_logger
from unstale_worker.sources import Source
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.sources.pooler import is_transaction_pooler
from unstale_worker.sources.postgres_connections import PostgresConnections

if TYPE_CHECKING:
    from unstale_worker.sources.rpc import Project

log = get_logger("unstale.source")


def check_settings(settings: OutboxSettings) -> None:
    """Raise `SettingError` if no source can be opened with these settings."""
    if settings.source != "supabase":
        _ = settings.postgres  # raises for a wrong URL
    if settings.supabase_url is not None and settings.source != "outbox":
        project_url(settings.supabase_url)
    missing_project = [
        name
        for name, value in (
            ("SUPABASE_URL", settings.supabase_url),
            ("SUPABASE_SECRET_KEY", settings.supabase_key),
        )
        if value is None
    ]
    project = (
        f"{' and '.join(missing_project)} {'is' if len(missing_project) == 1 else 'are'} not set; set the "
        "project's URL and a secret key (Project settings > API keys)"
    )
    database = (
        "DATABASE_URL is not set; set it to the connection string of your Supabase database (Project "
        "settings > Database; the direct connection or the session pooler)"
    )
    if settings.source == "outbox" and settings.database_url is None:
        raise SettingError(database)
    if settings.source == "supabase" and missing_project:
        raise SettingError(project)
    if settings.source == "auto" and settings.database_url is None and missing_project:
        raise SettingError(f"{database}; or, to read over HTTPS: {project}")


def has_project(settings: OutboxSettings) -> bool:
    """Return True if the settings suffice for the source over HTTPS."""
    return settings.supabase_url is not None and settings.supabase_key is not None


def project_of(settings: OutboxSettings) -> "Project":
    """Return the project of the settings; requires `has_project`."""
    from unstale_worker.sources.rpc import Key, Project  # slow to import: the HTTPS clients

    assert settings.supabase_url is not None
    assert settings.supabase_key is not None
    key = Key(settings.supabase_key.get_secret_value())
    return Project(settings.supabase_url, key, timeout=settings.database_timeout)


async def open_source(settings: OutboxSettings, *, session: str = "standby") -> Source:
    """Open the source that the settings select; raises `Unavailable` and `ConfigurationError`.

    ``auto`` prefers a Postgres connection, which has lower latency than HTTPS and costs no requests. One log
    line names the chosen source and the reason. ``session`` is the name of its Postgres sessions, if it has
    any, until a term begins.
    """
    check_settings(settings)
    if settings.source == "supabase":
        return await _supabase(settings, why="UNSTALE_SOURCE selects it")
    if settings.database_url is None:
        return await _supabase(settings, why="DATABASE_URL is not set; SUPABASE_URL and a secret key are")
    try:
        return await _outbox(settings, session)
    except DatabaseUnavailable as error:
        if settings.source != "auto" or not has_project(settings):
            raise
        try:
            return await _supabase(settings, why=f"DATABASE_URL cannot be used: {error}", ask=True)
        except UnstaleError as other:
            both = isinstance(error, ConfigurationError) and isinstance(other, ConfigurationError)
            kind = DatabaseRefused if both else DatabaseUnavailable
            raise kind(f"{error}; HTTPS fails as well: {other}") from error


async def _outbox(settings: OutboxSettings, session: str) -> Source:
    assert settings.postgres is not None
    connections = PostgresConnections(settings.postgres.dsn, timeout=settings.database_timeout)
    pooled = await is_transaction_pooler(connections)
    if pooled:
        log.warning(
            "DATABASE_URL leads to a transaction pooler, which passes no NOTIFY: the worker polls; use the "
            "direct connection or the session pooler (port 5432) for lower latency"
        )
    why = "DATABASE_URL can be used" if settings.source == "auto" else "UNSTALE_SOURCE selects it"
    log.info("source chosen", source=OutboxSource.kind, why=why, pooled=pooled)
    return OutboxSource(
        replace(connections, pooled=pooled), read_entries=settings.read_entries, session=session
    )


async def _supabase(settings: OutboxSettings, *, why: str, ask: bool = False) -> Source:
    """Open the source over HTTPS; with ``ask``, call it once to verify that it answers."""
    from unstale_worker.sources.supabase import SupabaseSource  # slow to import: the HTTPS clients

    source = SupabaseSource(project_of(settings), read_entries=settings.read_entries)
    if ask:
        try:
            await source.watch_versions()
        finally:
            await source.close()
    log.info("source chosen", source=source.kind, why=why)
    return source

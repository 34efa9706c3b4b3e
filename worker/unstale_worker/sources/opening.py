"""Decides where changes come from, and opens that source."""

from dataclasses import replace

import structlog

from unstale.errors import SettingError
from unstale.settings import Settings
from unstale_worker.sources import Source
from unstale_worker.sources.connections import Connections
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.sources.pooler import is_transaction_pooler

log = structlog.get_logger("unstale.source")


def check_settings(settings: Settings) -> None:
    """Raise `SettingError` when no source can be opened with these settings."""
    if settings.database_url is None:
        raise SettingError(
            "DATABASE_URL is not set; give the connection string of your Supabase database "
            "(Project settings > Database; the direct or the session pooler's)"
        )


async def open_source(settings: Settings, *, session: str = "standby") -> Source:
    """The source that the settings ask for, once it answers; raises `Unavailable`, `ConfigurationError`.

    ``session`` is what it calls its sessions until a term begins, where it has any.
    """
    check_settings(settings)
    assert settings.database_url is not None
    connections = Connections(settings.database_url.get_secret_value(), timeout=settings.database_timeout)
    pooled = await is_transaction_pooler(connections)
    if pooled:
        log.warning(
            "a transaction pooler lies between: no NOTIFY passes, so the worker polls; the direct "
            "connection or the session pooler (port 5432) has lower latency"
        )
    return OutboxSource(
        replace(connections, pooled=pooled), read_entries=settings.read_entries, session=session
    )

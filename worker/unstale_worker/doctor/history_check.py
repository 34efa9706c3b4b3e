"""Check that the position in Redis is one of the database that the settings lead to."""

from collections.abc import AsyncIterator
from contextlib import suppress

from redis.exceptions import RedisError

from unstale.errors import UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.doctor.findings import Finding, ok, warning
from unstale_worker.redis.client import open_redis
from unstale_worker.sources.opening import open_source

SUBJECT = "database identity"


async def same_history(settings: WorkerSettings) -> AsyncIterator[Finding]:
    """Compare the two identities; no finding if a server does not answer, as other checks report that."""
    if not settings.uses_redis:
        return
    ours = stored = ""
    with suppress(UnstaleError, RedisError):
        stored = await _stored(settings)
        ours = await _ours(settings)
    if not ours or not stored:
        return
    if ours == stored:
        yield ok(SUBJECT, f"{ours}, as the position in Redis says")
    else:
        yield warning(
            SUBJECT,
            f"the position in Redis is of the database {stored} (server:timeline:database:outbox), and the "
            f"settings here lead to {ours}",
            "After a restore or an upgrade of unstale the worker drops every owned key at its next read, and "
            "this ends. If a worker runs and it stays, the worker reads another database: give it and the "
            "doctor the same DATABASE_URL.",
        )


async def _stored(settings: WorkerSettings) -> str:
    settings = settings.in_partitions[0]
    redis = open_redis(settings, connections=1)
    try:
        found = await redis.hget(settings.names.state, "database")
    finally:
        await redis.aclose()
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found or ""


async def _ours(settings: WorkerSettings) -> str:
    source = await open_source(settings)
    try:
        return (await source.read(None)).database
    finally:
        await source.close()

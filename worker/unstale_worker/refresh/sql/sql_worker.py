"""Refreshes of ``row`` and ``sql`` loaders, in the leader itself."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from unstale.settings import WorkerSettings
from unstale_worker.observe.refresh_counters import Tally
from unstale_worker.refresh.python.dispatch import Lost, run_batches
from unstale_worker.refresh.redis.pending_keys import Waiting
from unstale_worker.refresh.redis.refresh_set import RefreshQueue
from unstale_worker.refresh.retry_policy import Attempts
from unstale_worker.refresh.sql.rate_window import Allowance
from unstale_worker.refresh.sql.sql_loading import check
from unstale_worker.refresh.sql.sql_refresher import Batches, Lifetime
from unstale_worker.refresh.sql.sql_sessions import Sessions
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.sources.pooler import is_transaction_pooler
from unstale_worker.sources.postgres_connections import PostgresConnections

log = structlog.get_logger("unstale.refresh")


async def load_here(
    settings: WorkerSettings,
    specs: Sequence[RefreshSpec],
    lines: Mapping[str, Waiting],
    queue: RefreshQueue,
    *,
    session: str,
    lifetime: Lifetime,
    tally: Tally,
    lost: Lost,
    failed: Callable[[str], None],
) -> None:
    """Refresh what comes into ``lines``, for ever; raises `Unavailable` when a server does not answer.

    Args:
        settings: Where the database is, and how many sessions loaders may have.
        specs: The refreshes whose loaders are SQL.
        lines: Their claimed keys, by the text of the refresh.
        queue: The refresh set.
        session: Name of the Postgres sessions, as the leader's own.
        lifetime: Seconds that a value lives.
        tally: What is counted.
        lost: Takes keys that could not be worked on.
        failed: Takes the problem of a loader that does not run at all.
    """
    if settings.database_url is None:
        problem = "row and sql refreshes need DATABASE_URL; their keys are only invalidated"
        failed(problem)
        log.error(problem)
        await asyncio.Event().wait()
    assert settings.database_url is not None
    timeout = max(settings.database_timeout, *(spec.timeout + 1 for spec in specs))
    connections = PostgresConnections(settings.database_url.get_secret_value(), timeout=timeout)
    connections = replace(connections, pooled=await is_transaction_pooler(connections))
    sessions = Sessions(connections, name=session, most=settings.refresh_connections)
    try:
        await _check(sessions, specs, failed)
        batches = Batches(queue, sessions, Attempts.of(settings), lifetime, tally)
        async with asyncio.TaskGroup() as group:
            for spec in specs:
                line = lines[spec.template.text]
                allowance = None if spec.rate is None else Allowance(spec.rate)
                for _ in range(min(spec.concurrency, settings.refresh_connections)):
                    group.create_task(run_batches(spec, line, batches, allowance, lost))
    finally:
        await sessions.close()


async def _check(sessions: Sessions, specs: Iterable[RefreshSpec], failed: Callable[[str], None]) -> None:
    """Run every loader for no key: finds wrong SQL, missing rights and hiding policies."""
    async with sessions.session() as (connection, statements):
        for spec in specs:
            if problem := await check(connection, statements, spec):
                failed(problem)
                log.error("a refresh's loader does not run", refresh=spec.template.text, problem=problem)

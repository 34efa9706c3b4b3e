"""Runs the refreshes of ``row`` and ``sql`` loaders, in the leader itself."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from unstale.runtime import failpoints
from unstale.settings import WorkerSettings
from unstale_worker.refresh.outcomes import Outcomes
from unstale_worker.refresh.sql.pending_keys import PendingKeys
from unstale_worker.refresh.sql.rate_window import RateWindow
from unstale_worker.refresh.sql.sql_loading import check
from unstale_worker.refresh.sql.sql_refresher import SqlRefresher
from unstale_worker.refresh.sql.sql_sessions import Sessions
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.sources.pooler import is_transaction_pooler
from unstale_worker.sources.postgres_connections import PostgresConnections

BATCH_KEYS: Final = 500
"""Most keys in one query: large enough that a round trip costs little, small enough for a short lease."""

Lost = Callable[[list[str]], None]
"""Takes keys of a batch that was not finished, as a server did not answer."""

log = structlog.get_logger("unstale.refresh")


@dataclass(frozen=True, slots=True)
class SqlWorker:
    """Refreshes what the leader claimed.

    Attributes:
        settings: Where the database is, and how many sessions loaders may have.
        specs: The refreshes whose loaders are SQL.
        pending: Their claimed keys, by the text of the refresh.
        session: Name of the Postgres sessions, as the leader's own.
        lost: Takes keys of batches that were not finished.
        failed: Takes the problem of a loader that does not run at all.
        suspects: Keys of loads that Postgres ended the session of; kept over the runs of a term.
    """

    settings: WorkerSettings
    specs: Sequence[RefreshSpec]
    pending: Mapping[str, PendingKeys]
    session: str
    lost: Lost
    failed: Callable[[str], None]
    suspects: set[str]

    async def run(self, outcomes: Outcomes) -> None:
        """Refresh until cancelled; raises `Unavailable` when a server does not answer."""
        settings = self.settings
        if settings.postgres is None:
            problem = "row and sql refreshes need DATABASE_URL; their keys are only invalidated"
            self.failed(problem)
            log.error(problem)
            await asyncio.Event().wait()
        assert settings.postgres is not None
        timeout = max(settings.database_timeout, *(spec.timeout + 1 for spec in self.specs))
        connections = PostgresConnections(settings.postgres.dsn, timeout=timeout)
        connections = replace(connections, pooled=await is_transaction_pooler(connections))
        sessions = Sessions(connections, name=self.session, most=settings.refresh_connections)
        try:
            await _check(sessions, self.specs, self.failed)
            refresher = SqlRefresher(outcomes, sessions, self.suspects)
            async with asyncio.TaskGroup() as group:
                for spec in self.specs:
                    pending = self.pending[spec.template.text]
                    window = None if spec.rate is None else RateWindow(spec.rate)
                    for _ in range(min(spec.concurrency, settings.refresh_connections)):
                        group.create_task(run_batches(spec, pending, refresher, window, self.lost))
        finally:
            await sessions.close()


async def run_batches(
    spec: RefreshSpec, pending: PendingKeys, refresher: SqlRefresher, window: RateWindow | None, lost: Lost
) -> None:
    """Refresh pending keys, batch after batch, until cancelled; runs once for each batch at the same time."""
    while True:
        keys = await pending.take(BATCH_KEYS)
        if window is not None:
            granted = window.grant(len(keys), now=time.monotonic())
            pending.put(keys[granted:])
            keys = keys[:granted]
            if not keys:
                await asyncio.sleep(window.wait(now=time.monotonic()))
                continue
        try:
            if failpoints.on:
                await failpoints.reach("sql_worker.before_batch")
            await refresher.refresh(spec, keys)
        except BaseException:  # also cancelled, as the server of another batch did not answer
            lost(keys)
            raise


async def _check(sessions: Sessions, specs: Iterable[RefreshSpec], failed: Callable[[str], None]) -> None:
    """Run every loader for no key: finds wrong SQL, missing rights and policies that hide rows."""
    async with sessions.session() as (connection, statements):
        for spec in specs:
            if problem := await check(connection, statements, spec):
                failed(problem)
                log.error("a refresh's loader does not run", refresh=spec.template.text, problem=problem)

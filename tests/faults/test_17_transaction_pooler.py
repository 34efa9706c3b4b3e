"""17: a transaction pooler between the worker and Postgres swallows LISTEN: commits would notify nobody.

Guards: `is_transaction_pooler` before any LISTEN; then polling, no session state, no prepared
statements. A real PgBouncer; an ordinary connection is not mistaken for one.
"""

import pytest

from faults.stage import staged
from servers import Database, eventually
from servers.pooler import pooled
from unstale_worker.sources import opening
from unstale_worker.sources.pooler import is_transaction_pooler
from unstale_worker.sources.postgres_connections import PostgresConnections
from workers import connected, running_worker


async def notifying(database: Database) -> bool:
    """Whether captures were asked to send NOTIFY."""
    async with connected(database.dsn) as owner:
        until = await owner.fetchval("select pg_sequence_last_value('unstale.notify_wanted'::regclass)")
        return until is not None


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_it_is_recognised(database: Database, size: int) -> None:
    async with pooled(database.worker_dsn, size=size) as dsn:
        for _ in range(1 if size == 1 else 3):
            assert await is_transaction_pooler(PostgresConnections(dsn, timeout=5))


async def test_a_direct_connection_is_none(database: Database) -> None:
    for _ in range(5):
        assert not await is_transaction_pooler(PostgresConnections(database.worker_dsn))


@pytest.mark.parametrize("defended", [True, False])
async def test_changes_arrive_and_no_commit_notifies(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    if not defended:

        async def unaware(_: PostgresConnections) -> bool:
            return False

        monkeypatch.setattr(opening, "is_transaction_pooler", unaware)
    async with staged(database.dsn, redis_url) as (stage, redis), pooled(database.worker_dsn) as dsn:
        if not defended:
            async with running_worker(dsn, redis_url, leading=False) as worker:
                await eventually(lambda: worker.status().counters.errors, message="sessions are mixed up")
            return
        async with running_worker(dsn, redis_url) as worker:
            await stage.open_agent()
            await stage.warm()
            for user in (1, 2, 3):
                await stage.write(user)
                await stage.settled(redis)
            assert not worker.status().listening
            assert not await notifying(database)
            await stage.db.execute("update profiles set version = version + 1")
            await stage.settled(redis)
            assert worker.status().counters.errors == 0
        assert not await notifying(database)

"""13: Postgres is killed and restarted, a rolled-back xid comes back, an older copy is restored.

Guards: the position is the snapshot *cut at the highest xid delivered* (``unstale.read``,
``unstale.cut``); `standing_after_read` compares database, xmax and the flushed LSN with what the
position knew.
"""

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from faults.stage import key_of, staged
from servers import eventually
from unstale.protocol.messages import Snapshot
from unstale_worker.dev_servers import EmbeddedPostgres, migrate
from unstale_worker.leader import partition
from unstale_worker.redis.state import Standing
from unstale_worker.sources import Cursor, Page
from unstale_worker.sources.outbox import OutboxSource
from workers import SCHEMA, applied, connected, running_worker, state_of


@pytest.fixture
async def lazy_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A migrated server that writes nothing to disk on its own: only a commit flushes the WAL."""
    settings: dict[str, str | int] = {
        "wal_writer_delay": "10s",
        "wal_writer_flush_after": "1GB",
        "bgwriter_lru_maxpages": 0,
        "checkpoint_timeout": "1h",
        "autovacuum": "off",
    }
    server = EmbeddedPostgres(settings=settings)
    await server.__aenter__()
    try:
        await server.create_supabase_roles()
        await migrate(server, database="postgres")
        yield server
    finally:
        await server.close()


def worker_dsn(server: EmbeddedPostgres) -> str:
    return server.dsn(user="unstale_worker")


@pytest.mark.parametrize("defended", [True, False])
async def test_a_rolled_back_xid_that_comes_back_after_a_crash(
    lazy_postgres: EmbeddedPostgres, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """An abort is not flushed, so the crash forgets it, and the next transaction gets the same xid."""
    read = OutboxSource.read

    async def uncut(self: OutboxSource, after: str | None, cursor: Cursor | None = None) -> Page:
        page = await read(self, after, cursor)
        return page if page.more else replace(page, position=page.snapshot)

    server = lazy_postgres
    if not defended:
        monkeypatch.setattr(OutboxSource, "read", uncut)
    async with staged(server.dsn(), redis_url) as (stage, redis):
        async with running_worker(worker_dsn(server), redis_url):
            await stage.open_agent()
            await stage.warm()
            await stage.write(1)
            await stage.applied(redis)
            # Nothing flushes after this commit: the xids of the next two are known to memory only.
            async with connected(server.dsn()) as other:
                for _ in range(3):
                    change = other.transaction()
                    await change.start()
                    lost = int(await other.fetchval("select pg_current_xact_id()::text::bigint"))
                    await other.execute("update profiles set version = 99 where id = 2")
                    await change.rollback()
                # A read that sees them as over.
                reads = (await state_of(redis))["applied_at"]
                await eventually(lambda: moved(redis, reads))
            assert defended or Snapshot.parse((await state_of(redis))["position"]).xmax > lost
        await server.kill()
        await server.start()
        async with connected(server.dsn()) as again:
            came_back = []
            for user in (3, 4, 5, 6):
                came_back += await again.fetch(
                    "update profiles set version = version + 1 where id = $1 "
                    "returning id, pg_current_xact_id()::text::bigint as xid",
                    user,
                )
            reused = [row["id"] for row in came_back if row["xid"] <= lost]
            assert reused
            async with running_worker(worker_dsn(server), redis_url):
                await applied(redis, again)
                cached = await redis.mget(key_of(user) for user in reused)
                assert (b"1" in cached) is not defended


async def moved(redis: object, before: str) -> bool:
    return (await state_of(redis))["applied_at"] != before  # type: ignore[arg-type]


async def test_killed_and_restarted_under_load(own_postgres: EmbeddedPostgres, redis_url: str) -> None:
    """Transactions that the crash took back never happened; those that were confirmed are applied."""
    async with (
        staged(own_postgres.dsn(), redis_url) as (stage, redis),
        running_worker(worker_dsn(own_postgres), redis_url),
    ):
        await stage.open_agent()
        await stage.warm()
        async with connected(own_postgres.dsn()) as other:
            change = other.transaction()
            await change.start()
            await other.execute("update profiles set version = 50 where id = 5")
            for user in (1, 2, 3):
                await stage.write(user)
            await own_postgres.kill()
            with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                await change.commit()
            other.terminate()
        await own_postgres.start()
        await stage.db.close()
        async with connected(own_postgres.dsn()) as again:
            stage.db = again
            await stage.reader.expire_connections()
            await stage.write(4)
            await stage.settled(redis)
            await stage.warm()
            await stage.settled(redis)
            assert [await stage.read(user) for user in (1, 4, 5)] == [2, 2, 1]


@pytest.mark.parametrize("defended", [True, False])
async def test_restored_from_an_older_copy(
    own_postgres: EmbeddedPostgres, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """The copy knows nothing of what was applied last: every owned key is dropped."""
    server = own_postgres
    async with connected(server.dsn()) as db:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles select g, 'x', 1 from generate_series(1, 20) g")
    await server.stop()
    copy = await server.save_data("older")
    await server.start()
    if not defended:
        monkeypatch.setattr(partition, "standing_after_read", lambda state, page: Standing.READY)
    async with staged(server.dsn(), redis_url, schema=False) as (stage, redis):
        async with running_worker(worker_dsn(server), redis_url):
            for user in range(1, 6):
                await stage.write(user)
            await stage.applied(redis)
            await stage.open_agent()
            await stage.warm()
            assert await stage.read(1) == 2
            epoch = (await state_of(redis))["epoch"]
        await stage.db.close()
        await server.kill()
        await server.restore_data(copy)
        await server.start()
        await stage.reader.expire_connections()
        async with connected(server.dsn()) as again:
            stage.db = again
            async with running_worker(worker_dsn(server), redis_url):
                if defended:
                    await stage.settled(redis)
                    assert (await state_of(redis))["epoch"] != epoch
                    assert await stage.read(1) == 1
                else:
                    with pytest.raises(AssertionError):
                        await stage.settled(redis, timeout=2)

"""14: xids that commit out of order, writers open for long, rollbacks, savepoints.

Guards: the position is a snapshot, not a number (``unstale.new_ranges``). With the highest xid as the
position, what commits later with a lower one is lost.
"""

import random
from contextlib import AsyncExitStack
from dataclasses import replace

import asyncpg
import pytest

from faults.stage import staged
from servers import Database, eventually
from unstale.protocol.messages import Snapshot
from unstale_worker.sources import Cursor, Page
from unstale_worker.sources.outbox import OutboxSource
from workers import connected, running_worker, state_of


@pytest.fixture
def number_as_position(monkeypatch: pytest.MonkeyPatch, defended: bool) -> None:
    """Undefended: everything up to the highest xid counts as applied."""
    read = OutboxSource.read

    async def up_to_highest(self: OutboxSource, after: str | None, cursor: Cursor | None = None) -> Page:
        page = await read(self, after, cursor)
        xmax = Snapshot.parse(page.position).xmax
        return replace(page, position=f"{xmax}:{xmax}:")

    if not defended:
        monkeypatch.setattr(OutboxSource, "read", up_to_highest)


@pytest.mark.parametrize("defended", [True, False])
async def test_a_lower_xid_that_commits_later(
    database: Database, redis_url: str, number_as_position: None, defended: bool
) -> None:
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        connected(database.dsn) as slow,
        running_worker(database.worker_dsn, redis_url),
    ):
        await stage.open_agent()
        await stage.warm()
        change = slow.transaction()
        await change.start()
        await slow.execute("update profiles set version = 5 where id = 1")
        await stage.write(2)
        await stage.applied(redis)
        await change.commit()
        if defended:
            await stage.settled(redis)
            assert await stage.read(1) == 5
        else:
            await stage.write(3)
            with pytest.raises(AssertionError, match="stale"):
                await stage.settled(redis)


async def test_savepoints(database: Database, redis_url: str) -> None:
    """What is rolled back to a savepoint was never written; what is released belongs to the whole."""
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url),
    ):
        await stage.open_agent()
        await stage.warm()
        async with stage.db.transaction():
            await stage.write(1)
            async with stage.db.transaction():
                await stage.write(2)
            undone = stage.db.transaction()
            await undone.start()
            await stage.write(3)
            await undone.rollback()
            await stage.write(4)
        await stage.settled(redis)
        assert [await stage.read(user) for user in (1, 2, 3, 4)] == [2, 2, 1, 2]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_any_order_of_begins_commits_and_rollbacks(
    database: Database, redis_url: str, seed: int
) -> None:
    """Six writers, each on rows of its own; small pages, so that batches have many."""
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        stage, redis = await stack.enter_async_context(staged(database.dsn, redis_url))
        await stack.enter_async_context(
            running_worker(database.worker_dsn, redis_url, read_entries=2, script_keys=2)
        )
        for _ in range(2):
            await stage.open_agent()
        await stage.warm()
        writers: list[asyncpg.Connection] = [
            await stack.enter_async_context(connected(database.dsn)) for _ in range(6)
        ]
        open_changes: dict[int, object] = {}
        for _ in range(250):
            number = chance.randrange(6)
            writer = writers[number]
            change = open_changes.get(number)
            if change is None:
                change = writer.transaction()
                await change.start()
                open_changes[number] = change
            await writer.execute(
                "update profiles set version = version + 1 where id = $1",
                1 + number * 3 + chance.randrange(3),
            )
            match chance.randrange(5):
                case 0:
                    await change.rollback()  # type: ignore[attr-defined]
                    del open_changes[number]
                case 1 | 2:
                    await change.commit()  # type: ignore[attr-defined]
                    del open_changes[number]
            await stage.read(1 + chance.randrange(18), chance.randrange(2))
        for change in open_changes.values():
            await change.commit()  # type: ignore[attr-defined]
        await stage.settled(redis)
        await stage.warm()
        await stage.settled(redis)


async def test_a_writer_open_for_long_while_the_position_moves_on(database: Database, redis_url: str) -> None:
    """The position keeps naming the one that is missing, through many batches and a change of leader."""
    async with staged(database.dsn, redis_url) as (stage, redis), connected(database.dsn) as slow:
        change = slow.transaction()
        await change.start()
        xid = int(await slow.fetchval("select pg_current_xact_id()::text::bigint"))
        await slow.execute("update profiles set version = 5 where id = 1")
        for _ in range(2):
            async with running_worker(database.worker_dsn, redis_url):
                if not stage.agents:
                    await stage.open_agent()
                await stage.warm()
                for user in range(2, 12):
                    await stage.write(user)
                await stage.applied(redis)
                assert not Snapshot.parse((await state_of(redis))["position"]).includes(xid)
        async with running_worker(database.worker_dsn, redis_url) as worker:
            await change.commit()
            await stage.settled(redis)
            await eventually(lambda: worker.status().counters.entries == 1)
            assert await stage.read(1) == 5

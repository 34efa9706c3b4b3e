"""25: "not found" is cached, then the row is inserted.

Guards: an insert invalidates like an update (captures on INSERT), and None is a value with a lease like
any other.
"""

import pytest

from faults.played import background
from faults.stage import staged
from servers import Database
from unstale.runtime import failpoints
from workers import running_worker

ABSENT = 77


@pytest.mark.parametrize("defended", [True, False])
async def test_an_insert_invalidates_a_cached_absence(
    database: Database, redis_url: str, defended: bool
) -> None:
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url),
    ):
        for _ in range(2):
            await stage.open_agent()
        assert [await stage.read(ABSENT, agent) for agent in (0, 1)] == [None, None]
        assert await redis.get(f"user:{ABSENT}:profile") == b"null"
        if not defended:
            await stage.db.execute(  # the event triggers would bring it back
                "set unstale.generating = 'on'; drop trigger unstale_1_insert on profiles"
            )
        await stage.write(ABSENT)
        if defended:
            await stage.settled(redis)
            assert [await stage.read(ABSENT, agent) for agent in (0, 1)] == [1, 1]
        else:
            with pytest.raises(AssertionError, match="stale in Redis"):
                await stage.settled(redis)


async def test_an_absence_that_was_loaded_before_the_insert_is_not_stored(
    database: Database, redis_url: str
) -> None:
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url),
    ):
        await stage.open_agent()
        with failpoints.armed("reader.before_fill", hold=True) as point:
            async with background(stage.read(ABSENT)) as read:
                await point.wait()
                await stage.write(ABSENT)
                await stage.applied(redis)
                point.release()
                assert await read is None
        assert await stage.read(ABSENT) == 1
        await stage.settled(redis)


async def test_a_deleted_row_becomes_an_absence(database: Database, redis_url: str) -> None:
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url),
    ):
        await stage.open_agent()
        assert await stage.read(1) == 1
        await stage.db.execute("delete from profiles where id = 1")
        await stage.settled(redis)
        assert await stage.read(1) is None

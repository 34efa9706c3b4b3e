"""24: clocks jump: the wall clock of a machine, the time a machine slept, the clock of the database server.

Guards: `unstale.runtime.clock` (monotonic, counts suspension) for every bound; positions and horizons are
snapshots, never time stamps (``unstale.purge``), so a wrong clock can make the worker drop keys, and
never skip a change.
"""

import math
import time

import pytest

from faults.stage import key_of, staged
from servers import Database, eventually
from unstale.runtime import clock
from unstale_worker.leader import partition
from unstale_worker.redis.state import Standing, StoredState, standing_after_read
from unstale_worker.sources import Page
from workers import connected, running_worker


class Jumping:
    """A clock that can be moved."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._now = clock.now

    def __call__(self) -> float:
        return self._now() + self.offset


@pytest.fixture
def suspended(monkeypatch: pytest.MonkeyPatch) -> Jumping:
    """The clock of an agent whose machine is put to sleep by the test."""
    jumping = Jumping()
    monkeypatch.setattr(clock, "now", jumping)
    return jumping


async def test_a_machine_that_slept_trusts_nothing_it_remembers(
    database: Database, redis_url: str, suspended: Jumping
) -> None:
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url),
    ):
        cache = await stage.open_agent()
        await stage.warm()
        assert cache.attached
        suspended.offset += 3_600
        assert not cache.attached
        assert cache.staleness == math.inf
        await stage.write(1)
        await stage.applied(redis)
        assert await stage.read(1) == 2
        await eventually(lambda: cache.attached)
        assert cache.staleness < 3_600
        await stage.settled(redis)


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
@pytest.mark.parametrize("defended", [True, False])
async def test_the_wall_clock_means_nothing(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, jump: float, defended: bool
) -> None:
    """It jumps in every process, and stays away for as long as a batch is read, applied and heard of."""
    now, offset = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: now() + offset)
    if not defended:  # the bounds on the wall clock
        monkeypatch.setattr(clock, "now", lambda: time.time())
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url) as worker,
    ):
        cache = await stage.open_agent()
        await stage.warm()
        before = cache.staleness
        offset = jump
        kept = cache.attached and abs(cache.staleness - before) < 3_600  # nothing ran since the jump
        assert kept is defended
        if not defended:
            return
        await stage.write(1)
        await stage.settled(redis)
        assert cache.attached
        assert 0 <= cache.staleness < 60
        assert await stage.read(1) == 2
        assert worker.status().ready


@pytest.mark.parametrize("defended", [True, False])
async def test_a_database_clock_set_forward_purges_too_early_and_that_is_seen(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """What the worker has not read yet is gone; its position does not cover the horizon."""

    def blind(state: StoredState, page: Page) -> Standing:
        found = standing_after_read(state, page)
        return Standing.READY if found is Standing.PURGED else found

    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.open_agent()
            await stage.warm()
        await stage.write(1)
        async with connected(database.superuser_dsn) as operator:
            await operator.execute("delete from unstale.snapshots")
            await operator.execute("select unstale.purge()")  # records a snapshot of now
            await operator.execute(
                "update unstale.snapshots set taken_at = taken_at - interval '2 hours'"
            )  # seen from a clock that was set forward, now is two hours ago
            assert await operator.fetchval("select unstale.purge()") > 0
        if not defended:
            monkeypatch.setattr(partition, "standing_after_read", blind)
        async with running_worker(database.worker_dsn, redis_url) as worker:
            if defended:
                await stage.settled(redis)
                assert worker.status().counters.recoveries == 1
                assert await stage.read(1) == 2
            else:
                assert worker.status().ready  # it takes the gap for peace
                assert await redis.get(key_of(1)) == b"1"


async def test_a_database_clock_set_back_keeps_nothing_for_ever(database: Database, redis_url: str) -> None:
    """Snapshots of the future are forgotten, or nothing would be purged until then."""
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.write(1)
            await stage.applied(redis)
        async with connected(database.superuser_dsn) as operator:
            await operator.execute("delete from unstale.snapshots")
            await operator.execute("select unstale.purge()")
            await operator.execute("update unstale.snapshots set taken_at = taken_at + interval '1 day'")
            await operator.execute("select unstale.purge()")
            future = "select count(*) from unstale.snapshots where taken_at > now() + interval '1 minute'"
            assert await operator.fetchval(future) == 0
            assert await operator.fetchval("select count(*) from unstale.snapshots") == 1

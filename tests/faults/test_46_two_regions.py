"""46: two regions: two workers with their own namespace and Redis follow the outbox of one database.

Guards: the position is in each Redis, and the outbox is purged by age, not by what anybody has read.
"""

from contextlib import AsyncExitStack
from typing import Any

from faults.stage import key_of, staged
from servers import Database
from unstale.protocol.names import Names
from unstale_worker.dev_servers import EmbeddedValkey
from workers import connected, running_worker, state_of

FAR: dict[str, Any] = {"namespace": "west"}


async def test_a_region_away_for_longer_than_the_outbox_reaches(
    database: Database, valkey: EmbeddedValkey
) -> None:
    async with (
        EmbeddedValkey() as west,
        staged(database.dsn, valkey.url) as (east, near),
        staged(database.dsn, west.url, schema=False) as (away, far),
        running_worker(database.worker_dsn, valkey.url),
        AsyncExitStack() as workers,
    ):
        await workers.enter_async_context(running_worker(database.worker_dsn, west.url, **FAR))
        await east.open_agent()
        await away.open_agent(**FAR)
        for region in (east, away):
            await region.warm()
        before = [await state_of(near), await state_of(far, Names("west"))]
        assert all(region["position"] for region in before)

        await workers.aclose()  # the west is away
        for user in (1, 2, 3):
            await east.write(user)
        await east.settled(near)
        async with connected(database.superuser_dsn) as owner:
            # The next purge believes that all of this was more than an hour ago.
            await owner.execute(
                "insert into unstale.snapshots values (now() - interval '61 minutes', pg_current_snapshot())"
            )
            await owner.execute("select unstale.purge(100000)")
            assert await owner.fetchval("select count(*) from unstale.outbox") == 0
        assert await far.get(key_of(1)) is not None  # the old value stands there

        async with running_worker(database.worker_dsn, west.url, **FAR) as worker:
            assert worker.status().counters.recoveries == 1
            for user in (1, 2, 3):
                assert await away.read(user) == 2
            await east.write(4)
            await east.settled(near)
            after = await state_of(near)
            assert (after["epoch"], after["fence"]) == (before[0]["epoch"], before[0]["fence"])

"""32: a writer is open for long while the worker wants to sleep.

Guards: the sleep lock is only ever *tried* (`NotifyWakeUps.try_sleep`): the worker polls on, and nobody's
commit waits.
"""

import asyncio

import pytest

from faults.stage import staged
from servers import Database, eventually
from unstale_worker.sources import notify
from unstale_worker.sql import statement
from workers import connected, running_worker


@pytest.mark.parametrize("defended", [True, False])
async def test_it_keeps_nobody_up(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:

    def waiting(name: str) -> str:
        text = statement(name)
        return text.replace("select pg_try_advisory_lock($1::int, $2::int)",
                            "select pg_advisory_lock($1::int, $2::int) is null")  # fmt: skip

    if not defended:
        monkeypatch.setattr(notify, "statement", waiting)
    async with staged(database.dsn, redis_url) as (stage, redis), connected(database.dsn) as slow:
        change = slow.transaction()
        await change.start()
        await slow.execute("update profiles set version = version + 1 where id = 19")  # nobody sleeps: silent
        async with running_worker(database.worker_dsn, redis_url) as worker:
            sleeper = worker._wakeups
            assert sleeper is not None
            await stage.write(1)
            if not defended:
                await eventually(lambda: sleeper.listening)
                await stage.write(2)
                with pytest.raises(AssertionError, match="the position contains everything"):
                    await stage.applied(redis, timeout=1)
                await change.rollback()
                return
            await stage.open_agent()
            for user in range(2, 6):
                async with asyncio.timeout(30):
                    await stage.write(user)
                await stage.settled(redis)
                assert not sleeper.asleep
            await change.commit()
            await stage.settled(redis)
            await eventually(lambda: sleeper.asleep, message="it sleeps once the writer is gone")
            received = sleeper.received
            await stage.write(6)
            await stage.settled(redis)
            assert sleeper.received > received

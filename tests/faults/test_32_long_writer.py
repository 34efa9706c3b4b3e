"""32: a writer is open for long while the worker wants to sleep.

Guards: nobody waits for anybody. Commits notify from now on, and the worker polls until the writer that may
not has ended (`NotifyWakeUps.try_sleep`). Without the list of such writers it would sleep through the commit.
"""

import asyncio

import pytest

from faults.stage import staged
from servers import Database, eventually
from unstale_worker.sources import notify
from unstale_worker.sources.wakeups import WakeUps
from unstale_worker.sql import statement
from workers import connected, running_worker


@pytest.mark.parametrize("defended", [True, False])
async def test_it_keeps_nobody_up(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    waits = asyncio.Event()
    if not defended:
        wait = WakeUps.wait

        def unlisted(name: str) -> str:
            return statement(name).replace("unstale.want_notify()", "(unstale.want_notify())[:0]")

        async def wait_for_a_hint(self: WakeUps, timeout: float) -> bool:
            if timeout == 0 or not self.asleep:
                return await wait(self, timeout)
            waits.set()
            return await wait(self, 3_600)

        monkeypatch.setattr(notify, "statement", unlisted)
        monkeypatch.setattr(WakeUps, "wait", wait_for_a_hint)
    async with staged(database.dsn, redis_url) as (stage, redis), connected(database.dsn) as slow:
        change = slow.transaction()
        await change.start()
        await slow.execute("update profiles set version = version + 1 where id = 19")  # nobody sleeps: silent
        async with running_worker(database.worker_dsn, redis_url) as worker:
            sleeper = worker._wakeups
            assert sleeper is not None
            if not defended:
                await asyncio.wait_for(waits.wait(), 60)  # it has read once more
                await change.commit()
                with pytest.raises(AssertionError, match="the position contains everything"):
                    await stage.applied(redis, timeout=1)
                return
            await stage.write(1)
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

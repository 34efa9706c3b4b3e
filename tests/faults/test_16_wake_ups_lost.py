"""16: every wake-up is lost.

Guards: a wake-up is a hint; `Pipeline._rest` always waits with a time limit. Without one, the change
would wait for the next notification that arrives.
"""

import asyncio

import pytest

from faults.stage import staged
from servers import Database, eventually
from unstale_worker.sources.notify import NotifyWakeUps
from unstale_worker.sources.wakeups import WakeUps
from workers import running_worker


@pytest.mark.parametrize("defended", [True, False])
async def test_changes_arrive_all_the_same(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    monkeypatch.setattr(NotifyWakeUps, "_notified", lambda self, *_: None)
    waiting = asyncio.Event()
    if not defended:
        wait = WakeUps.wait

        async def wait_for_ever(self: WakeUps, timeout: float) -> bool:
            if timeout and self.asleep:
                waiting.set()
                timeout = 3_600
            return await wait(self, timeout)

        monkeypatch.setattr(WakeUps, "wait", wait_for_ever)
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url, watermark_interval=0.2) as worker,
    ):
        if defended:
            await stage.open_agent()
            await stage.warm()
        for user in (1, 2, 3):
            await stage.write(user)
            if defended:
                await stage.settled(redis)
        if not defended:
            # Before it waits, it reads once more, and would find a change that is committed meanwhile.
            await eventually(waiting.is_set)
            await stage.write(4)
            with pytest.raises(AssertionError, match="the position contains everything"):
                await stage.applied(redis, timeout=1)
        assert worker._wakeups is not None
        assert worker._wakeups.received == 0

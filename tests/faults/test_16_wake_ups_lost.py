"""16: every wake-up is lost.

Guards: a wake-up is a hint; `Pipeline._rest` always waits with a time limit. Without one, the change
would wait for the next notification that arrives.
"""

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
    if not defended:
        wait = WakeUps.wait

        async def wait_for_ever(self: WakeUps, timeout: float) -> bool:
            return await wait(self, timeout if timeout == 0 or not self.asleep else 3_600)

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
            wakeups = worker._wakeups
            assert wakeups is not None
            await eventually(lambda: wakeups.asleep)
            await stage.write(4)
            with pytest.raises(AssertionError, match="the position contains everything"):
                await stage.applied(redis, timeout=1)
        assert worker._wakeups is not None
        assert worker._wakeups.received == 0

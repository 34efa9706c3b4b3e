"""29: SIGTERM in the middle of a batch: the batch is finished, the lease given up, the exit code is 0.

Guards: `Pipeline.run` looks at ``stop`` only between cycles; `Worker._serve` resigns afterwards.
"""

import signal

import pytest

from faults.stage import staged
from servers import Database, eventually
from workers import running_worker, worker_process

STEPS = ["source.after_read", "applier.before_apply", "applier.before_script", "applier.before_last_script"]


@pytest.mark.parametrize("step", STEPS)
async def test_the_batch_at_hand_is_finished(database: Database, redis_url: str, step: str) -> None:
    """The worker dawdles at the step, long enough to be met there; nobody works after it."""
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.open_agent()
            await stage.warm()
            await stage.applied(redis)
        await stage.db.execute("update profiles set version = version + 1 where id <= 9")
        slow = f"{step}=sleep:1.0"
        with worker_process(database.worker_dsn, redis_url, armed=slow, UNSTALE_SCRIPT_KEYS="2") as worker:
            await eventually(lambda: redis.exists("{unstale:0}:leader"))
            worker.send_signal(signal.SIGTERM)
            await eventually(lambda: worker.poll() is not None)
            assert worker.returncode == 0
        assert not await redis.exists("{unstale:0}:leader")
        async with running_worker(database.worker_dsn, redis_url):
            await stage.settled(redis)


async def test_a_second_worker_takes_over_without_waiting_for_the_lease(
    database: Database, redis_url: str
) -> None:
    """With a lease of 20 s: only a resignation explains that another one leads before the test gives up."""
    slow = "applier.before_last_script=sleep:0.3"
    long_lease = {"UNSTALE_LEADER_TTL": "20", "UNSTALE_MAX_SILENCE": "30"}
    async with staged(database.dsn, redis_url) as (stage, redis):
        with worker_process(database.worker_dsn, redis_url, armed=slow, **long_lease) as worker:
            await stage.open_agent()
            await stage.warm()
            await stage.write(1)
            worker.send_signal(signal.SIGTERM)
            await eventually(lambda: worker.poll() is not None)
        async with running_worker(database.worker_dsn, redis_url):
            await stage.settled(redis)


async def test_sigterm_while_redis_does_not_answer(database: Database, redis_url: str) -> None:
    """Nothing can be finished then; it ends all the same, and what is missing is done by the next one."""
    async with staged(database.dsn, redis_url) as (stage, redis):
        with worker_process(database.worker_dsn, redis_url, UNSTALE_REDIS_TIMEOUT="0.3") as worker:
            await stage.open_agent()
            await stage.warm()
            await redis.execute_command("CLIENT", "PAUSE", 1_500, "ALL")
            await stage.write(1)
            worker.send_signal(signal.SIGTERM)
            await eventually(lambda: worker.poll() is not None, timeout=60)
            assert worker.returncode == 0
        async with running_worker(database.worker_dsn, redis_url):
            await stage.settled(redis)

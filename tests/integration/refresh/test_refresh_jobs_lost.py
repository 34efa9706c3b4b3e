"""The queue between leader and refresh workers loses what it holds, as Redis may evict any key of it."""

import asyncio
import time

import pytest
from docket.strikelist import StrikeList

from servers import Database, eventually
from unstale.runtime.cancellation import cancelled
from unstale_worker.observe.refresh_counters import Tally
from unstale_worker.refresh.coordinator import open_queue
from unstale_worker.refresh.python import docket_queue
from unstale_worker.refresh.python.dispatch import run_jobs
from unstale_worker.refresh.redis.pending_keys import Waiting
from unstale_worker.rules import Rules
from workers import connected, redis_at, running_worker, settings_for
from workers.refresh_stage import due, filled, settled

KEY = "user:1:greeting"
SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles values (1, 'Ada'), (2, 'Grace');
select unstale.watch('public.profiles', '{id}');
"""
RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:greeting"]

[refresh."user:{user_id}:greeting"]
loader = "refresh_loaders:greeting"
concurrency = 1
"""


async def test_a_key_whose_job_was_lost_gets_another(database: Database, redis_url: str) -> None:
    """A record of it is left, which says that it waits; or that it runs, at a worker that is dead."""
    settings = settings_for(database.dsn, redis_url)
    rules = Rules.parse(RULES)
    (spec,) = rules.refreshes
    lane, queue = open_queue(settings, rules=rules.hash)
    async with redis_at(redis_url) as redis, docket_queue.open_docket(settings) as docket:
        docket_queue.register(docket, rules.refreshes, docket_queue.nothing)
        assert await docket_queue.add(docket, queue, spec, [KEY]) == []
        assert await redis.xlen(docket.stream_key) == 1
        assert await docket_queue.add(docket, queue, spec, [KEY]) == []
        assert await redis.xlen(docket.stream_key) == 1, "no second one"
        await redis.unlink(docket.stream_key)
        assert await docket_queue.add(docket, queue, spec, [KEY]) == []
        assert await redis.xlen(docket.stream_key) == 1

        await redis.unlink(docket.stream_key)
        await redis.hset(docket.runs_key(KEY), mapping={"state": "running", "worker": "alive"})
        await redis.hdel(docket.runs_key(KEY), "known")
        await redis.zadd(docket.workers_set, {"alive": time.time()})
        assert await docket_queue.add(docket, queue, spec, [KEY]) == [KEY]
        assert not await redis.exists(docket.stream_key)
        await redis.zrem(docket.workers_set, "alive")
        assert await docket_queue.add(docket, queue, spec, [KEY]) == []
        assert await redis.xlen(docket.stream_key) == 1
        await redis.unlink(docket.stream_key, docket.runs_key(KEY))
    await lane.close()


async def test_a_lost_job_does_not_keep_its_place_for_ever(database: Database, redis_url: str) -> None:
    settings = settings_for(database.dsn, redis_url)
    rules = Rules.parse(RULES)
    (spec,) = rules.refreshes
    lane, queue = open_queue(settings, rules=rules.hash)
    lost: list[str] = []
    async with redis_at(redis_url) as redis, docket_queue.open_docket(settings) as docket:
        docket_queue.register(docket, rules.refreshes, docket_queue.nothing)
        waiting = Waiting()
        task = asyncio.create_task(run_jobs(spec, waiting, docket, queue, Tally(), lost.extend))
        waiting.put([KEY])
        await eventually(lambda: redis.xlen(docket.stream_key))
        await redis.unlink(docket.stream_key)
        waiting.put([KEY])  # nobody finished it, so it was claimed again
        await eventually(lambda: redis.xlen(docket.stream_key), message="it has a job again")
        await cancelled(task)
        await redis.unlink(docket.stream_key, docket.runs_key(KEY))
    await lane.close()


async def test_it_is_made_new_all_the_same(database: Database, redis_url: str) -> None:
    settings = settings_for(database.dsn, redis_url)
    rules = Rules.parse(RULES)
    (spec,) = rules.refreshes
    lane, queue = open_queue(settings, rules=rules.hash)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with docket_queue.open_docket(settings) as docket:
            docket_queue.register(docket, rules.refreshes, docket_queue.nothing)
            await docket_queue.add(docket, queue, spec, [KEY])
            await redis.unlink(docket.stream_key)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            await due(redis, KEY, "user:2:greeting")
            await filled(redis, KEY)
            await filled(redis, "user:2:greeting")
            await settled(redis)
    await lane.close()


async def test_leaving_ends_though_the_queues_monitor_drops_a_cancellation(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As redis-py does at times while Redis is away; pydocket asks once, and would wait for ever."""
    dropped = asyncio.Event()

    async def monitor(_self: StrikeList) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if dropped.is_set():
                    raise
                dropped.set()

    monkeypatch.setattr(StrikeList, "_monitor_strikes", monitor)
    async with asyncio.timeout(20), docket_queue.open_docket(settings_for("postgresql://nowhere", redis_url)):
        await asyncio.sleep(0)  # the monitor begins
    assert dropped.is_set()

"""A term that ends at any moment leaves no noise: no coroutine unawaited, no error of a task unretrieved."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import structlog

from servers import Database, eventually
from unstale.protocol.names import Names
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.status import Role
from unstale_worker.rules import Rules
from workers import PROFILES, SCHEMA, connected, redis_at, running_worker, settings_for

RULES = (
    PROFILES
    + """
[refresh."user:{id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"
"""
)


@contextmanager
def quiet() -> Iterator[None]:
    """Fail if asyncio reports anything. Unawaited coroutines are errors in these tests anyway."""
    heard: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: heard.append(context))
    try:
        yield
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert not heard


async def turns(number: int) -> None:
    """Let the other tasks make ``number`` steps."""
    for _ in range(number):
        await asyncio.sleep(0)


def leads_again(worker: Worker, fence: int) -> bool:
    """Return True if the worker leads in a later term than that with ``fence``."""
    return worker.status().fence > fence and worker.status().ready


async def test_stopped_at_each_step_of_its_beginning(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        for steps in [*range(12), 20, 40, 80, 160]:
            with quiet(), structlog.testing.capture_logs() as logs:
                worker, stop = (
                    Worker(settings_for(database.dsn, redis_url), Rules.parse(RULES)),
                    asyncio.Event(),
                )
                task = asyncio.create_task(worker.run(stop=stop))

                async with asyncio.timeout(60):
                    while worker.status().role is not Role.LEADING:
                        await turns(1)
                    await turns(steps)
                    stop.set()
                    await task
                del task, worker
            assert not [line for line in logs if line["log_level"] in ("error", "critical")]


@pytest.mark.parametrize("how", ["the lease is gone", "another fence", "stopped as it is lost"])
async def test_a_leader_that_loses_its_lease(database: Database, redis_url: str, how: str) -> None:
    names = Names()
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        with quiet(), structlog.testing.capture_logs() as logs:
            async with running_worker(database.dsn, redis_url, rules=RULES) as worker:
                for _ in range(2):
                    fence = worker.status().fence
                    if how == "another fence":
                        await redis.hincrby(names.state, "fence", 1)
                    else:
                        await redis.set(names.leader, "another", px=300)
                    if how == "stopped as it is lost":
                        await eventually(lambda: "no longer leading" in str(logs), timeout=60)
                        break
                    await eventually(partial(leads_again, worker, fence), timeout=60)
            del worker
        assert not [line for line in logs if line["log_level"] in ("error", "critical")]

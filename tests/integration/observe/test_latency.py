"""The worker measures how long after its commit a change was applied."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from servers import Database, eventually
from unstale_worker.leader.supervisor import Worker
from unstale_worker.redis.applier import Applier
from workers import SCHEMA, connected, running_worker


def counted(worker: Worker, changes: int) -> bool:
    return sum(worker.status().counters.latency.counts) == changes


async def test_each_change_is_counted_with_the_time_it_took(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Applier.apply

    async def slow(self: Applier, *arguments: Any, **more: Any) -> Any:
        if arguments[1].entries:
            await asyncio.sleep(0.25)
        return await apply(self, *arguments, **more)

    async with connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url) as worker:
            counters = worker.status().counters
            assert counters.latency.total == 0
            monkeypatch.setattr(Applier, "apply", slow)
            for number in range(3):
                await connection.execute("insert into profiles (id) values ($1)", number)
                await eventually(partial(counted, worker, number + 1))
            after = worker.status().counters
            assert sum(after.latency.counts) == after.entries == 3
            assert after.latency.total >= 3 * 0.25
            assert counters.latency.total == 0

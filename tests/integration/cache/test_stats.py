"""``unstale stats``: what Redis knows of the worker."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

from redis.asyncio import Redis

from servers import Database, eventually
from unstale.protocol.names import Names
from unstale_worker.observe.overview import lines, read_stats
from workers import SCHEMA, connected, running_worker
from workers.commands import run, started


async def test_before_any_worker(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        stats = await read_stats(redis, Names())

    assert not stats.leader
    assert stats.watermark_age is None
    assert (stats.epoch, stats.run, stats.last, stats.keys) == ("", "", 0, 0)
    assert dict(lines(stats))["watermark"] == "never"


async def test_one_of_a_thing_is_named_as_one(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        stats = await read_stats(redis, Names())

    for count, said in ((1, "1 entry, 1 byte, newest 7"), (2_000, "2,000 entries, 2,000 bytes, newest 7")):
        found = replace(stats, log_entries=count, log_bytes=count, last=7)
        assert dict(lines(found))["log"] == said


async def test_while_a_worker_leads(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as connection, Redis.from_url(redis_url) as redis:
        await connection.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url) as worker:
            await connection.execute("insert into profiles (id) values (1), (2)")
            await eventually(lambda: worker.status().counters.keys >= 4)

            stats = await read_stats(redis, Names())

        assert stats.leader
        assert 0 < stats.lease_ms <= 2_000
        assert stats.run == "live"
        assert stats.fence == worker.status().fence
        assert stats.watermark_age is not None
        assert stats.watermark_age < 5
        assert stats.last >= 1
        assert stats.log_entries >= 1
        assert stats.log_bytes > 0
        assert len(stats.epoch) == 32
        assert stats.rules


async def test_an_epoch_of_an_older_server_is_told(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as connection, Redis.from_url(redis_url) as redis:
        await connection.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url):
            pass
        await redis.hset("{unstale:0}:state", "run", "0" * 40)

        stats = await read_stats(redis, Names())

    assert stats.run == "old"
    assert "of an older server" in dict(lines(stats))["epoch"]


async def test_the_command(tmp_path: Path, redis_url: str) -> None:
    settings = {"REDIS_URL": redis_url}
    as_json = run("stats", "--json", cwd=tmp_path, settings=settings)
    assert json.loads(as_json.out)["leader"] is False
    plain = run("stats", cwd=tmp_path, settings=settings)
    assert "leader: none" in plain.out

    async with started("stats", "--json", "--watch", cwd=tmp_path, settings=settings) as watching:
        for _ in range(2):
            await watching.line("leader")
        assert await watching.end(signal.SIGINT) == 0

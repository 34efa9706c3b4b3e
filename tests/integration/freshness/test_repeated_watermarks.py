"""Watermarks that the worker did not publish keep no agent attached to a worker that is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from servers import eventually
from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, attached_cache

SILENCE = 2.0


@asynccontextmanager
async def publisher(valkey: EmbeddedValkey, redis: Redis) -> AsyncIterator[Redis]:
    """A client of a user that may publish on any channel, subscribe, and do nothing else."""
    rights = ("on", ">chat", "resetkeys", "&*", "-@all", "+publish", "+subscribe", "+@connection")
    await redis.execute_command("ACL", "SETUSER", "chat", *rights)
    async with Redis.from_url(valkey.url.replace(f":{valkey.password}@", "chat:chat@")) as client:
        yield client


def again(mark: dict[str, Any]) -> dict[str, Any]:
    return mark


def newer(mark: dict[str, Any]) -> dict[str, Any]:
    return {**mark, "age_ms": 0, "seen": f"{2**60}:{2**60}:", "lsn": "FFFFFFFF/FFFFFFFF"}


def of_the_future(mark: dict[str, Any]) -> dict[str, Any]:
    return {**mark, "age_ms": -1e9}


@pytest.mark.parametrize("forge", [again, newer, of_the_future])
async def test_a_dead_worker_detaches_agents_whatever_is_published(
    valkey: EmbeddedValkey, silent: WorkerDouble, forge: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    async with publisher(valkey, silent.redis) as chat:
        heard = chat.pubsub()
        await heard.subscribe(silent.names.channel)
        over = asyncio.Event()
        marks: list[dict[str, Any]] = []

        async def repeat() -> None:
            while not over.is_set():
                said = await heard.get_message(ignore_subscribe_messages=True, timeout=0.02)
                if said is not None and b"seen" in said["data"] and not marks:
                    marks.append(orjson.loads(said["data"]))
                if marks:
                    await chat.publish(silent.names.channel, orjson.dumps(forge(marks[0])))

        async with attached(valkey, silent) as cache:
            task = asyncio.create_task(repeat())
            try:
                async with silent.beating():
                    await eventually(lambda: bool(marks))
                    assert cache.attached
                dead = time.monotonic()
                await eventually(lambda: not cache.attached)
                assert time.monotonic() - dead < SILENCE + 30  # a busy machine; without the rule: never
                await asyncio.sleep(0.3)  # some more of them arrive
                assert not cache.attached
                async with silent.beating():
                    await eventually(lambda: cache.attached)
            finally:
                over.set()
                await task
                await heard.aclose()


@asynccontextmanager
async def attached(valkey: EmbeddedValkey, worker: WorkerDouble) -> AsyncIterator[Cache]:
    """A cache that was attached while ``worker`` published, which it may have ceased to do."""
    async with worker.beating():
        context = attached_cache(valkey.url, max_silence=SILENCE, leader_ttl=0.5)
        cache = await context.__aenter__()
    try:
        yield cache
    finally:
        await context.__aexit__(None, None, None)


async def test_an_agent_that_may_not_read_the_time_says_so_and_goes_on(
    valkey: EmbeddedValkey, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    rights = ("on", ">few", "~*", "&*", "+@all", "-time")
    await double.redis.execute_command("ACL", "SETUSER", "few", *rights)
    async with attached_cache(valkey.url.replace(f":{valkey.password}@", "few:few@")) as cache:
        await eventually(lambda: cache.attached)
        assert caplog.text.count("watermarks are not compared with the state") == 1

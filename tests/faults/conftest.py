"""A played worker and a cache that follows it, and quick clocks, for the failure cases."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from servers import eventually
from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers import redis_at
from workers.double import WorkerDouble, attached_cache, redis_client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """PINGs ten times a second, so that agents may notice silence in less than seconds."""
    monkeypatch.setattr("unstale.freshness.subscriber.PING_INTERVAL", 0.1)


@pytest.fixture
async def silent(valkey: EmbeddedValkey) -> AsyncIterator[WorkerDouble]:
    """A played worker that leads and says nothing unless the test makes it."""
    async with redis_client(valkey.url) as redis:
        worker = WorkerDouble(redis)
        await worker.recover(age=3600)  # no agent is attached by the state
        yield worker


@pytest.fixture
async def follower(valkey: EmbeddedValkey, silent: WorkerDouble) -> AsyncIterator[Cache]:
    """A cache that is attached to ``silent``; from now on only the test decides what it hears."""
    async with AsyncExitStack() as stack:
        async with silent.beating():
            cache = await stack.enter_async_context(attached_cache(valkey.url))
        yield cache


@pytest.fixture
async def durable() -> AsyncIterator[EmbeddedValkey]:
    """A Valkey that keeps an append-only file, so that it can come back with older data."""
    async with EmbeddedValkey(args=["--appendonly", "yes", "--appendfsync", "always"]) as server:
        yield server


@pytest.fixture
async def pair() -> AsyncIterator[tuple[EmbeddedValkey, EmbeddedValkey]]:
    """A primary and its replica, in sync."""
    async with EmbeddedValkey() as primary, EmbeddedValkey(replica_of=primary) as replica:
        async with redis_at(replica.url) as client:

            async def in_sync() -> bool:
                return (await client.info("replication")).get("master_link_status") == "up"

            await eventually(in_sync)
        yield primary, replica

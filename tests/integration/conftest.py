"""A played worker and a cache that follows it, for the tests of the agent side."""

from collections.abc import AsyncIterator

import pytest

from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, attached_cache, redis_client


@pytest.fixture
async def silent(valkey: EmbeddedValkey) -> AsyncIterator[WorkerDouble]:
    """A worker that leads and says nothing unless the test makes it."""
    async with redis_client(valkey.url) as redis:
        worker = WorkerDouble(redis)
        await worker.recover(age=3600)  # no agent is attached by the state
        yield worker


@pytest.fixture
async def double(silent: WorkerDouble) -> AsyncIterator[WorkerDouble]:
    """A worker that leads and sends watermarks all the time."""
    async with silent.beating():
        yield silent


@pytest.fixture
async def cache(valkey: EmbeddedValkey, double: WorkerDouble) -> AsyncIterator[Cache]:
    """A cache attached to ``double``."""
    async with attached_cache(valkey.url) as cache:
        yield cache

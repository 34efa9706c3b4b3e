"""What the worker asks of Redis before it begins: what passes by itself is no reason to give up."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from servers import eventually
from unstale.errors import RedisUnavailable
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.observe.preflight import check_redis


async def test_a_server_that_was_demoted_since_we_connected_is_tried_again(valkey: EmbeddedValkey) -> None:
    """It refuses the script as a read-only replica: no word about what the server can do."""
    async with (
        EmbeddedValkey(replica_of=valkey) as replica,
        Redis.from_url(replica.url, retry=Retry(NoBackoff(), 0)) as redis,
    ):
        await eventually(redis.ping)
        with pytest.raises(RedisUnavailable, match="read only replica"):
            await check_redis(redis, state_key="{unstale:0}:state")
        await redis.execute_command("REPLICAOF", "NO", "ONE")
        assert await check_redis(redis, state_key="{unstale:0}:state")

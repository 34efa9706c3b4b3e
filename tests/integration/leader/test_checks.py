"""What the worker asks of Redis before it begins: what passes by itself is no reason to give up."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from servers import Database, eventually
from unstale.errors import RedisUnavailable
from unstale.protocol.names import Names
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.observe.preflight import check_redis
from workers import SCHEMA, connected, redis_at, running_worker, state_of


async def test_a_server_that_was_demoted_since_we_connected_is_tried_again(valkey: EmbeddedValkey) -> None:
    """It refuses the script as a read-only replica: no word about what the server can do."""
    async with (
        EmbeddedValkey(replica_of=valkey) as replica,
        Redis.from_url(replica.url, retry=Retry(NoBackoff(), 0)) as redis,
    ):
        await eventually(redis.ping)
        with pytest.raises(RedisUnavailable, match="read only replica"):
            await check_redis(redis, Names())
        await redis.execute_command("REPLICAOF", "NO", "ONE")
        assert await check_redis(redis, Names())


@pytest.mark.parametrize("fence", ["9007199254740993", "9223372036854775807", "1e20", "-3"])
async def test_a_fence_that_lua_cannot_count_keeps_nobody_from_leading(
    database: Database, redis_url: str, fence: str
) -> None:
    """Beyond 2**53 two fences would be one number to a script; the position still protects."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await redis.hset(Names().state, "fence", fence)
        async with running_worker(database.dsn, redis_url) as worker:
            assert worker.status().fence == 1
            assert (await state_of(redis))["fence"] == "1"

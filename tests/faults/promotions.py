"""A replica that falls behind its primary, and what follows when it is promoted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from faults.stage import Stage
from servers import eventually
from unstale_worker.dev_servers import EmbeddedValkey
from workers import redis_at, state_of


@asynccontextmanager
async def cut_off(replica: EmbeddedValkey) -> AsyncIterator[Redis]:
    """Stop replication: what the primary acknowledges from now on the replica never sees."""
    async with redis_at(replica.url) as client:
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield client


async def caught_up(primary: Redis, replica: EmbeddedValkey) -> None:
    """Wait until the replica has everything."""
    async with redis_at(replica.url) as client:

        async def same() -> bool:
            ours = (await primary.info("replication"))["master_repl_offset"]
            return int((await client.info("replication"))["master_repl_offset"]) >= int(ours)

        await eventually(same)


async def settle_in_new_epoch(stage: Stage, redis: Redis, before: str) -> None:
    """A new epoch, and then everybody agrees."""

    async def other() -> bool:
        return (await state_of(redis)).get("epoch", before) != before

    await eventually(other, message="a new epoch")
    await stage.settled(redis)

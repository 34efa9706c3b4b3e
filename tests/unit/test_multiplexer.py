"""The multiplexer: its commands are byte for byte those of redis-py, and its pauses are random."""

import pytest
from redis.asyncio.connection import Connection

from unstale.errors import RedisUnavailable
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import FIRST_PAUSE, Multiplexer, pack_reads


@pytest.mark.parametrize("keys", [["a"], ["user:42:profile", "é", "x y\r\n"], [f"k{n}" for n in range(500)]])
def test_reads_are_packed_as_redis_py_packs_them(keys: list[str]) -> None:
    wanted = Connection(protocol=2).pack_command("GET" if len(keys) == 1 else "MGET", *keys)
    assert pack_reads(keys) == b"".join(wanted)


async def test_pauses_between_attempts_are_drawn_at_random() -> None:
    """Agents that lost the same Redis together do not reconnect together."""
    refused = Connections("redis://127.0.0.1:1/0", timeout=1.0)
    waits = []
    for _ in range(40):
        multiplexer = Multiplexer(refused, timeout=1.0, clock=lambda: 0.0)
        with pytest.raises(RedisUnavailable):
            await multiplexer.get("key")
        waits.append(multiplexer._retry_at)
        await multiplexer.close()
    assert all(FIRST_PAUSE / 2 <= wait <= FIRST_PAUSE for wait in waits)
    assert max(waits) - min(waits) > FIRST_PAUSE / 5

"""What the lane writes: byte for byte what redis-py writes."""

import pytest
from redis.asyncio.connection import Connection

from unstale.lane import pack_reads


@pytest.mark.parametrize("keys", [["a"], ["user:42:profile", "é", "x y\r\n"], [f"k{n}" for n in range(500)]])
def test_reads_are_packed_as_redis_py_packs_them(keys: list[str]) -> None:
    wanted = Connection(protocol=2).pack_command("GET" if len(keys) == 1 else "MGET", *keys)
    assert pack_reads(keys) == b"".join(wanted)

"""Compares the number of partitions that a process was given with the one that the cluster holds."""

import time

from redis.exceptions import RedisError

from unstale.errors import ConfigurationError, RedisUnavailable
from unstale.protocol.names import Names
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import Multiplexer


class OtherPartitions(ConfigurationError):
    """The cluster holds another number of partitions than ``UNSTALE_PARTITIONS`` says."""

    def __init__(self, names: Names, *, stored: str, given: int) -> None:
        super().__init__(
            f"UNSTALE_PARTITIONS is {given} here, but the cluster in REDIS_URL holds the namespace "
            f"{names.namespace!r} in {stored}. Set UNSTALE_PARTITIONS={stored} for worker and agents. To "
            f"change the number, stop them all, and delete the key {names.state}: docs/providers.md"
        )


async def check_partitions(url: str, home: Names, given: int, *, timeout: float) -> None:
    """Raise `OtherPartitions` if the leader's slot, ``home``, holds another number than ``given``.

    Nothing is raised if the cluster does not tell: processes with different numbers share no name, so that
    one of them only finds no worker.
    """
    multiplexer = Multiplexer(
        Connections(url, timeout=timeout, tag=home.tag), timeout=timeout, clock=time.monotonic
    )
    try:
        stored = await multiplexer.execute_command("HGET", home.state, "partitions")
    except (RedisError, RedisUnavailable):
        return
    finally:
        await multiplexer.close()
    text = b"" if stored is None else bytes(stored)
    if text.isdigit() and int(text) != given:
        raise OtherPartitions(home, stored=text.decode(), given=given)

"""The claim of one namespace on a Redis database.

Names of cached keys are the user's and the same in every namespace. Two namespaces in one database would
answer with each other's values. So the first worker claims the database for its namespace, and workers of
another one are refused until the claim has been silent for `GONE_AFTER`.
"""

from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from unstale.errors import ConfigurationError
from unstale.protocol.names import Names
from unstale.redis_tier.scripts import Script
from unstale_worker.redis.applier import unavailable

log = structlog.get_logger("unstale.worker")

CLAIM: Final = Script("unstale_worker.redis", "claim")
GONE_AFTER: Final = 3600.0
"""Seconds without a worker after which another namespace may take the database over. It is the default
retention of the outbox: a worker that was away for longer has lost its position anyway."""


class NamespaceTaken(ConfigurationError):
    """Another namespace uses this Redis database; the message names both and the remedy."""

    def __init__(self, names: Names, holder: str) -> None:
        self.holder = holder
        super().__init__(
            f"database {names.database} of REDIS_URL is used by the namespace {holder!r}, and "
            f"UNSTALE_NAMESPACE here is {names.namespace!r}. Both would store different values under the "
            "same key names. Give one of them another database number (redis://host:6379/1) or a Redis of "
            f"its own. If nothing uses {holder!r} any more, empty this database, or wait: an hour without "
            "a worker frees it"
        )


async def claim(client: Any, names: Names) -> None:
    """Claim the database, or renew the claim; raises `NamespaceTaken` or `RedisUnavailable`.

    Args:
        client: A `Multiplexer` or a redis-py client.
        names: The namespace that claims.
    """
    try:
        ours, other = await CLAIM(
            client, keys=[names.claim, names.state, names.rules],
            args=[names.namespace, round(GONE_AFTER * 1000)],
        )  # fmt: skip
    except RedisError as error:
        raise unavailable(error) from error
    if not ours:
        raise NamespaceTaken(names, bytes(other).decode("utf-8", "replace"))
    if other:
        log.warning(
            "this Redis database was used by another namespace, which has been silent for long; its keys are "
            "dropped",
            before=bytes(other).decode("utf-8", "replace"),
            namespace=names.namespace,
        )


async def holder(client: Any, names: Names) -> tuple[str, float]:
    """Return the namespace that holds the claim, or '', and the seconds since its worker was there."""
    found = await client.hgetall(names.claim)
    seconds, microseconds = await client.time()
    seen = found.get(b"seen", b"0")
    silent = seconds + microseconds / 1e6 - (int(seen) / 1000 if seen.isdigit() else 0.0)
    return found.get(b"namespace", b"").decode("utf-8", "replace"), abs(silent)

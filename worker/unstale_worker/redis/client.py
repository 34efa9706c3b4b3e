"""Opens Redis clients the way the protocol needs them: no silent retries, no silent reconnects."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from unstale.settings import SharedSettings


def open_redis(settings: "SharedSettings", *, connections: int = 1) -> "Redis":
    """A client for ``settings.redis_url``; connects on first use, and is closed by its owner.

    redis-py by itself retries ten times with growing pauses and reconnects without a word. Here a command
    fails at once (after `redis_timeout` seconds at most, twice that with sentinels) and the caller
    decides: a script whose reply was lost must not be sent twice behind its back. Raises `SettingError` for
    what is no URL.
    """
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from unstale.redis_tier.connections import connection_class
    from unstale.redis_tier.url import RedisUrl

    timeout = settings.redis_timeout
    parsed = RedisUrl.parse(settings.redis_url.get_secret_value())
    kind, options = connection_class(parsed, timeout=timeout)
    return Redis.from_pool(
        BlockingConnectionPool(
            connection_class=kind,
            max_connections=connections,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            decode_responses=False,
            **options,
        )
    )

"""Opens Redis clients as the protocol needs them: without silent retries or reconnects."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

    from unstale.protocol.names import Names
    from unstale.settings import SharedSettings


async def subscribe(pubsub: "PubSub", names: "Names") -> None:
    """Subscribe to the channel of invalidations."""
    await (pubsub.ssubscribe if names.cluster else pubsub.subscribe)(names.channel)


def open_redis(settings: "SharedSettings", *, connections: int = 1, stranger: bool = False) -> "Redis":
    """Return a client for ``settings.redis_url``; it connects on first use, and the caller closes it.

    By default redis-py retries ten times with growing pauses and reconnects silently. Here a command fails at
    once, after ``redis_timeout`` seconds at most (twice that with Sentinel), and the caller decides: a script
    whose reply was lost must not be sent twice without the caller knowing. A ``stranger`` signs in with
    no user and no password. Raises `SettingError` for an invalid URL.
    """
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from unstale.redis_tier.connections import connection_class
    from unstale.redis_tier.url import RedisUrl

    timeout = settings.redis_timeout
    parsed = RedisUrl.parse(settings.redis_url.get_secret_value())
    kind, options = connection_class(parsed, timeout=timeout, tag=settings.names.tag)
    if stranger:
        options = {name: value for name, value in options.items() if name not in ("username", "password")}
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

"""Where every Redis connection of an agent comes from: one URL, no hidden retries, no silent reconnects."""

import math
import socket
from typing import Any, Final, TypeAlias

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from unstale.errors import SettingError
from unstale.redis_tier.sentinels import NoPrimary, Sentinels
from unstale.redis_tier.url import FORMS, RedisUrl

RedisConnection: TypeAlias = Connection | SSLConnection | UnixDomainSocketConnection

KEEPALIVE: Final = {
    getattr(socket, name): seconds
    for name, seconds in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""A half-open connection is noticed by the kernel after about 11 s even when nothing is sent."""


class PrimaryConnection(SentinelManagedConnection):
    """Asks the sentinels each time it connects, and stays only with a primary."""

    async def connect_to(self, address: tuple[str, int]) -> None:
        """Connect and log in; raises `NoPrimary` when that server is none."""
        await super().connect_to(address)  # type: ignore[no-untyped-call]  # redis-py's own
        await expect_primary(self)


class PrimarySSLConnection(SentinelManagedSSLConnection, PrimaryConnection):
    """The same with TLS."""


class Connections:
    """Opens connections to the primary of one Redis.

    They speak RESP2 (pub/sub replies are plain lists), never reconnect by themselves (redis-py 8 would retry
    ten times) and never cut a blocking read: whoever uses one sets the time limits. With a Sentinel URL each
    new connection asks anew who the primary is. Raises `SettingError` for what is no such URL.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        parsed = RedisUrl.parse(url)
        self._class, self._options = connection_class(parsed, timeout=timeout)
        self._timeout = timeout
        self._sentinels = Sentinels(parsed, timeout=timeout)
        self.asks_sentinels: bool = bool(parsed.sentinels)
        """Whether each new connection asks sentinels for the primary."""
        self.place: str = parsed.place
        """Where they lead, for people."""
        self.database: int = parsed.database
        """Number of the Redis database there."""

    def new(self) -> RedisConnection:
        """A connection that is not open yet; `open` opens it."""
        return self._class(
            **self._options,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
            driver_info=None,
        )

    async def open(self, connection: RedisConnection) -> None:
        """Connect it to a primary; raises `NoPrimary`, or redis-py's errors. The caller sets a time limit.

        A name may lead to a server that was demoted; it would answer reads for ever, with old values.
        """
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's own
        if not self.asks_sentinels:
            await expect_primary(connection)

    async def led_elsewhere(self, connection: RedisConnection) -> bool:
        """Whether the sentinels name another primary by now than the one this connection leads to."""
        if not self.asks_sentinels:
            return False
        try:
            named = await self._sentinels.get_master_address()
        except NoPrimary:
            return False
        return named != (getattr(connection, "host", None), getattr(connection, "port", None))

    def __repr__(self) -> str:
        return f"<Connections {self.place}>"


def connection_class(url: RedisUrl, *, timeout: float) -> tuple[type[RedisConnection], dict[str, Any]]:
    """redis-py's class for this URL, and the arguments that say where it leads; raises `SettingError`."""
    options = dict(url.options)
    kind: type[RedisConnection]
    if "path" in options:
        kind = UnixDomainSocketConnection
    else:
        options |= {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE}
        kind = SSLConnection if url.tls else Connection
    if url.sentinels:
        kind = PrimarySSLConnection if url.tls else PrimaryConnection
        options["connection_pool"] = Sentinels(url, timeout=timeout)
    try:
        kind(**options)
    except TypeError as error:  # redis-py takes every name in the query for an argument
        name = str(error).rpartition("argument ")[2]
        raise SettingError(f"REDIS_URL: there is no option {name}; {FORMS}") from None
    except (RedisError, ValueError) as error:
        raise SettingError(f"REDIS_URL: {error}; {FORMS}") from None
    return kind, options


async def expect_primary(connection: RedisConnection) -> None:
    """Raise `NoPrimary` when the server is a replica.

    INFO, not ROLE: unstale's scripts need INFO anyway, and users with few rights may not call ROLE.
    """
    await connection.send_command("INFO", "replication")
    try:
        found = bytes(await connection.read_response(timeout=math.inf))
    except ResponseError:
        return  # it may not even ask; the worker's scripts need INFO, and refuse a replica
    if b"role:master" not in found:
        raise NoPrimary("REDIS_URL leads to a replica; unstale needs the primary, or sentinels that know it")

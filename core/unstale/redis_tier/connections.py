"""Opens all Redis connections from one URL, without hidden retries or silent reconnects."""

import math
import socket
from typing import Any, Final, TypeAlias

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from unstale.errors import SettingError
from unstale.protocol.names import Names
from unstale.redis_tier.asking import NoPrimary
from unstale.redis_tier.cluster_nodes import ClusterNodes
from unstale.redis_tier.sentinels import Sentinels
from unstale.redis_tier.url import FORMS, RedisUrl

RedisConnection: TypeAlias = Connection | SSLConnection | UnixDomainSocketConnection

KEEPALIVE: Final = {
    getattr(socket, name): seconds
    for name, seconds in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""TCP keepalive: the kernel detects a half-open connection after about 11 s even if nothing is sent."""


DEFAULT_TAG: Final = Names().tag


class PrimaryConnection(SentinelManagedConnection):
    """A connection that asks Sentinels, or nodes, on each connect, and accepts only a primary."""

    async def connect_to(self, address: tuple[str, int]) -> None:
        """Connect and log in; raises `NoPrimary` if that server is a replica."""
        await super().connect_to(address)  # type: ignore[no-untyped-call]  # redis-py's own
        await expect_primary(self, cluster=isinstance(self.connection_pool, ClusterNodes))


class PrimarySSLConnection(SentinelManagedSSLConnection, PrimaryConnection):
    """A `PrimaryConnection` with TLS."""


class Connections:
    """Opens connections to the primary of one Redis.

    The connections use RESP2, in which pub/sub replies are plain lists. They never reconnect by themselves
    (redis-py 8 would retry ten times). They have no read timeout: the caller sets the time limits. With a
    Sentinel URL, each new connection asks the Sentinels for the primary. With a cluster, it asks the nodes
    for the primary of the slot of ``tag``. Raises `SettingError` for an invalid URL.
    """

    def __init__(self, url: str, *, timeout: float, tag: str = DEFAULT_TAG) -> None:
        parsed = RedisUrl.parse(url)
        self._class, self._options = connection_class(parsed, timeout=timeout, tag=tag)
        self._timeout = timeout
        self._finder = finder(parsed, timeout=timeout, tag=tag)
        self.asks_for_primary: bool = self._finder is not None
        """True if each new connection asks Sentinels, or the nodes of a cluster, for the primary."""
        self.place: str = parsed.place
        """The server's address, for logs and errors."""
        self.tls: bool = parsed.tls
        """True if connections are encrypted."""
        self.database: int = parsed.database
        """Number of the Redis database."""

    def new(self) -> RedisConnection:
        """Return a connection that is not open yet; `open` opens it."""
        return self._class(
            **self._options,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
            driver_info=None,
        )

    async def open(self, connection: RedisConnection) -> None:
        """Connect to a primary; raises `NoPrimary`, or redis-py's errors. The caller sets a time limit.

        The check matters because a host name may lead to a server that was demoted. As a replica it would
        keep answering reads, with old values.
        """
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's own
        if self._finder is None:
            await expect_primary(connection)

    async def led_elsewhere(self, connection: RedisConnection) -> bool:
        """Return True if Sentinels, or nodes, now name another primary than this connection leads to."""
        if self._finder is None:
            return False
        try:
            named = await self._finder.get_master_address()
        except NoPrimary:
            return False
        return named != (getattr(connection, "host", None), getattr(connection, "port", None))

    def __repr__(self) -> str:
        return f"<Connections {self.place}>"


def finder(url: RedisUrl, *, timeout: float, tag: str) -> Sentinels | ClusterNodes | None:
    """Return what names the primary; None: the URL itself does."""
    if url.nodes:
        return ClusterNodes(url, tag, timeout=timeout)
    return Sentinels(url, timeout=timeout) if url.sentinels else None


def connection_class(
    url: RedisUrl, *, timeout: float, tag: str = DEFAULT_TAG
) -> tuple[type[RedisConnection], dict[str, Any]]:
    """Return redis-py's connection class for this URL, and its arguments; raises `SettingError`."""
    options = dict(url.options)
    kind: type[RedisConnection]
    if "path" in options:
        kind = UnixDomainSocketConnection
    else:
        options |= {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE}
        kind = SSLConnection if url.tls else Connection
    asked = finder(url, timeout=timeout, tag=tag)
    if asked is not None:
        kind = PrimarySSLConnection if url.tls else PrimaryConnection
        options["connection_pool"] = asked
    try:
        kind(**options, driver_info=None)  # otherwise redis-py reads its own metadata, which takes 2 ms
    except (TypeError, RedisError, ValueError) as error:  # its text may quote a part of the URL
        raise SettingError(
            f"REDIS_URL: an option has a value that cannot be used ({type(error).__name__}); {FORMS}"
        ) from None
    return kind, options


async def expect_primary(connection: RedisConnection, *, cluster: bool = False) -> None:
    """Raise `NoPrimary` if the server is a replica, or a node of a cluster that the URL does not call one.

    It asks with INFO, not ROLE: unstale's scripts need INFO anyway, and users with few permissions may not
    call ROLE. Where INFO is refused, HELLO tells the role. Without either, only writes tell: a replica
    refuses them.
    """
    await connection.send_command("INFO", "replication", "cluster")
    try:
        told = bytes(await connection.read_response(timeout=math.inf))
        primary, node = b"role:master" in told, b"cluster_enabled:1" in told
    except ResponseError:
        await connection.send_command("HELLO")
        try:
            said = await connection.read_response(timeout=math.inf)
        except ResponseError:
            return
        primary, node = b"master" in said, b"cluster" in said
    if node and not cluster:  # keys have other names there, and nothing would invalidate these
        raise NoPrimary(
            "REDIS_URL names a node of a Redis Cluster; add ?cluster=true to it, for worker and agents"
        )
    if not primary:
        raise NoPrimary(
            "REDIS_URL leads to a replica; give the address of the primary, or of Sentinels that know it"
        )

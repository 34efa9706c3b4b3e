"""Where every Redis connection of an agent comes from: one URL, no hidden retries, no silent reconnects."""

import socket
from typing import Any, Final, TypeAlias

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.backoff import NoBackoff
from redis.retry import Retry

from unstale.errors import SettingError

RedisConnection: TypeAlias = Connection | SSLConnection | UnixDomainSocketConnection

_KEEPALIVE: Final = {
    getattr(socket, name): seconds
    for name, seconds in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""A half-open connection is noticed by the kernel after about 11 s even when nothing is sent."""

_OURS: Final = ("socket_timeout", "socket_connect_timeout", "retry_on_timeout", "protocol", "max_connections",
                "health_check_interval", "timeout")  # fmt: skip
"""URL options that would bring redis-py's own timeouts and retries back."""


class Connections:
    """Opens connections to one Redis.

    They speak RESP2 (pub/sub replies are plain lists), never reconnect by themselves (redis-py 8 would retry
    ten times) and never cut a blocking read: whoever uses one sets the time limits.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        try:
            options: dict[str, Any] = dict(parse_url(url))
        except ValueError as error:
            raise SettingError(f"REDIS_URL: {error}; expected redis://host:port/db or rediss://…") from None
        for name in _OURS:
            options.pop(name, None)
        self._class: type[RedisConnection] = options.pop("connection_class", Connection)
        if self._class is not UnixDomainSocketConnection:
            options["socket_keepalive"] = True
            options["socket_keepalive_options"] = _KEEPALIVE
        self._options = options
        self._timeout = timeout
        place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        self.place: str = place

    def new(self) -> RedisConnection:
        """A connection that is not open yet; ``await connection.connect()`` opens it."""
        return self._class(
            **self._options,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
            driver_info=None,
        )

    def __repr__(self) -> str:
        return f"<Connections {self.place}>"

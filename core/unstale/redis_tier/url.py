"""Parses ``REDIS_URL``: the address of a server, or of Sentinels that know the primary."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import parse_url

from unstale.errors import SettingError

FORMS: Final = (
    "expected redis://host:port/db, rediss://… with TLS, or "
    "redis+sentinel://host:port,host:port/service/db (rediss+sentinel://… with TLS)"
)
ENCODE: Final = (
    "host or port cannot be read (in a user or password, write / ? # @ : and [ as %2F %3F %23 %40 %3A "
    "and %5B)"
)
SENTINEL_SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
SENTINEL_PORT: Final = 26379
"""Port of a Sentinel if the URL does not name one."""

_OURS: Final = ("socket_timeout", "socket_connect_timeout", "retry_on_timeout", "protocol", "max_connections",
                "health_check_interval", "timeout", "legacy_responses")  # fmt: skip
"""URL options that would re-enable redis-py's own timeouts and retries; they are ignored."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL.

    Attributes:
        options: Arguments of redis-py's connection to the server: login, db, TLS, and host and port or path.
        sentinels: Host and port of each Sentinel; empty if the URL names the server itself.
        service: The Sentinels' name for the primary and its replicas.
        sentinel_options: Arguments of a connection to a Sentinel: its own login, and TLS.
        tls: True if connections are encrypted.
    """

    options: Mapping[str, Any] = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> "RedisUrl":
        """Parse a URL; raises `SettingError` that names the wrong part, and never shows a password."""
        scheme, _, rest = text.partition("://")
        if scheme in SENTINEL_SCHEMES:
            return cls._of_sentinels(SENTINEL_SCHEMES[scheme], rest)
        options = _parsed(text)
        if "path" not in options:
            path = urlsplit(text).path.strip("/")
            if "@" in path:
                raise _wrong(ENCODE)  # this is the rest of a password
            if path and not path.isdecimal():
                raise _wrong(
                    f"the database {path!r} is not a number (a Sentinel's service is written "
                    "redis+sentinel://host:port/service/db)"
                )
        return cls(options, tls=scheme == "rediss")

    @property
    def place(self) -> str:
        """The server's address, for logs and errors."""
        if self.sentinels:
            return f"{self.service} (sentinels {', '.join(map(_shown, self.sentinels))})"
        if "path" in self.options:
            return str(self.options["path"])
        return f"{self.options.get('host', 'localhost')}:{self.options.get('port', 6379)}"

    @property
    def database(self) -> int:
        """Number of the Redis database."""
        return int(self.options.get("db", 0))

    @classmethod
    def _of_sentinels(cls, scheme: str, rest: str) -> "RedisUrl":
        end = min((place for mark in "/?#" if (place := rest.find(mark)) >= 0), default=len(rest))
        login, at, hosts = rest[:end].rpartition("@")
        path, question, query = rest[end:].partition("?")
        sentinels = tuple(_sentinel(text, number) for number, text in enumerate(hosts.split(","), 1))
        service, _, db = path.strip("/").partition("/")
        if "@" in path:
            raise _wrong(ENCODE)  # this is the rest of a password
        if not service:
            raise _wrong("the service, the Sentinels' name for the primary, is missing from the path")
        if db and not db.isdecimal():
            raise _wrong(f"the database {db!r}, after the service's name, is not a number")
        options = _parsed(f"{scheme}://{login}{at}primary/{db}{question}{query}")
        del options["host"]
        own = {
            name: options.pop(f"sentinel_{name}")
            for name in ("username", "password")
            if f"sentinel_{name}" in options
        }
        tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
        return cls(options, sentinels, unquote(service), own | tls, tls=scheme == "rediss")


def database_number(text: str) -> int:
    """Return the number of the Redis database that a URL names, or 0 for a URL that cannot be read."""
    try:
        return RedisUrl.parse(text).database
    except SettingError:
        return 0


def _parsed(text: str) -> dict[str, Any]:
    try:
        urlsplit(text).port  # noqa: B018  # raises for an invalid port
    except ValueError:
        raise _wrong(ENCODE) from None
    try:
        options: dict[str, Any] = dict(parse_url(text))
    except ValueError as error:
        raise _wrong(str(error)) from None
    for name in ("connection_class", *_OURS):
        options.pop(name, None)
    return options


def _sentinel(text: str, number: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise _wrong(f"sentinel {number} is not host:port")  # not shown: it may be half of a password
    return host, SENTINEL_PORT if port is None else port


def _shown(place: tuple[str, int]) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _wrong(problem: str) -> SettingError:
    return SettingError(f"REDIS_URL: {problem}; {FORMS}")

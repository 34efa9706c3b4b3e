"""Parses ``REDIS_URL``: the address of a server, of Sentinels that know the primary, or of a cluster."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import unquote, urlencode

from unstale.errors import SettingError
from unstale.runtime.urls import ENCODE, UrlParts, host_and_port, shown_scheme

FORMS: Final = (
    "expected redis://host:port/db, rediss://… with TLS, or "
    "redis+sentinel://host:port,host:port/service/db (rediss+sentinel://… with TLS), or for a cluster "
    "redis://host:port,host:port?cluster=true (rediss://… with TLS)"
)
SENTINEL_SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
SENTINEL_PORT: Final = 26379
"""Port of a Sentinel if the URL does not name one."""
NODE_PORT: Final = 6379
"""Port of a node of a cluster if the URL does not name one."""

_OURS: Final = ("socket_timeout", "socket_connect_timeout", "retry_on_timeout", "max_connections",
                "health_check_interval", "timeout", "legacy_responses", "socket_keepalive",
                "socket_read_size")  # fmt: skip
"""URL options that would re-enable redis-py's own timeouts and retries; they are ignored."""
_KEPT: Final = ("db", "username", "password", "client_name", "sentinel_username", "sentinel_password")
_CERT_REQS: Final = ("none", "optional", "required")
_REPLIES: Final = ("decode_responses", "encoding", "encoding_errors", "protocol", "parser_class")
"""URL options of redis-py that change what replies are."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL.

    Attributes:
        options: Arguments of redis-py's connection to the server: login, db, TLS, and host and port or path.
        sentinels: Host and port of each Sentinel; empty if the URL names the server itself.
        nodes: Host and port of each named node of a cluster; empty if it is no cluster.
        service: The Sentinels' name for the primary and its replicas.
        sentinel_options: Arguments of a connection to a Sentinel: its own login, and TLS.
        tls: True if connections are encrypted.
    """

    options: Mapping[str, Any] = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False
    nodes: tuple[tuple[str, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "RedisUrl":
        """Parse a URL; raises `SettingError` that names the wrong part, and never shows one."""
        parts = UrlParts.of(text, refuse=_wrong)
        if parts.scheme in SENTINEL_SCHEMES:
            return cls._of_sentinels(SENTINEL_SCHEMES[parts.scheme], parts)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise _wrong(f"it {shown_scheme(parts.scheme)}")
        parts, cluster = _cluster(parts)
        if cluster:
            return cls._of_nodes(parts)
        if parts.scheme == "unix":
            return cls(_options(parts, parts.scheme, parts.path))
        host_and_port(parts.hosts, refuse=_wrong)
        return cls(_options(parts, parts.scheme, _database(parts.path)), tls=parts.scheme == "rediss")

    @property
    def place(self) -> str:
        """The server's address, for logs and errors."""
        if self.sentinels:
            return f"{self.service} (sentinels {', '.join(map(_shown, self.sentinels))})"
        if self.nodes:
            return ", ".join(map(_shown, self.nodes))
        if "path" in self.options:
            return str(self.options["path"])
        return f"{self.options.get('host', 'localhost')}:{self.options.get('port', 6379)}"

    @property
    def database(self) -> int:
        """Number of the Redis database."""
        return int(self.options.get("db", 0))

    @classmethod
    def _of_nodes(cls, parts: UrlParts) -> "RedisUrl":
        nodes = tuple(
            _listed(text, f"node {number}", NODE_PORT)
            for number, text in enumerate(parts.hosts.split(","), 1)
        )
        if parts.scheme == "unix" or parts.path.strip("/") not in ("", "0"):
            raise _wrong("a cluster has no other database than 0, and is reached over TCP")
        options = _options(replace(parts, hosts="node"), parts.scheme, "")
        del options["host"]
        return cls(options, tls=parts.scheme == "rediss", nodes=nodes)

    @classmethod
    def _of_sentinels(cls, scheme: str, parts: UrlParts) -> "RedisUrl":
        sentinels = tuple(
            _listed(text, f"sentinel {number}", SENTINEL_PORT)
            for number, text in enumerate(parts.hosts.split(","), 1)
        )
        service, _, db = parts.path.strip("/").partition("/")
        if not service:
            raise _wrong("the service, the Sentinels' name for the primary, is missing from the path")
        options = _options(replace(parts, hosts="primary"), scheme, _database(f"/{db}"))
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


def in_cluster(text: str) -> bool:
    """Return True for the URL of a cluster; False also for one that cannot be read."""
    try:
        return bool(RedisUrl.parse(text).nodes)
    except SettingError:
        return False


def _options(parts: UrlParts, scheme: str, path: str) -> dict[str, Any]:
    """Return redis-py's arguments; every option is one that unstale knows."""
    # Here, because all settings import this module, and a process may have none but those of a pool.
    from redis.asyncio.connection import parse_url

    query = []
    for name, value in parts.options:
        if name in _REPLIES and (name, value) != ("protocol", "2"):
            raise _wrong(
                f"option {name!r} changes the form of Redis' replies, and unstale reads bytes in protocol 2; "
                "remove it from the URL for unstale"
            )
        sentinel = name.startswith("sentinel_") and not parts.scheme.endswith("+sentinel")
        tls = name.startswith("ssl_") and parts.scheme.startswith("rediss")
        if sentinel or not (tls or name in _KEPT or name in _OURS or name == "protocol"):
            hint = " without TLS" if name.startswith("ssl_") and not tls else ""
            raise _wrong(f"there is no {parts.option_name(name, known=_KEPT)}{hint}")
        if name == "ssl_cert_reqs" and value not in _CERT_REQS:
            raise _wrong(f"option 'ssl_cert_reqs' must be one of {', '.join(_CERT_REQS)}")
        if name not in _OURS and name != "protocol":
            query.append((name, value))
    login = f"{parts.login}@" if parts.login else ""
    asked = f"?{urlencode(query)}" if query else ""
    try:
        options: dict[str, Any] = dict(parse_url(f"{scheme}://{login}{parts.hosts}{path}{asked}"))
    except ValueError as error:
        known = re.search(r"Invalid value for '(db|ssl_\w+)'", str(error))
        raise _wrong(f"Invalid value for {known[1]!r}" if known else ENCODE) from None
    options.pop("connection_class", None)
    return options


def _database(path: str) -> str:
    """Return the path with the database's number, or an empty text; raises `SettingError`."""
    number = path.strip("/")
    if number and not (number.isascii() and number.isdecimal()):
        raise _wrong(
            "the database, behind the last slash, is not a number (a Sentinel's service is written "
            "redis+sentinel://host:port/service/db)"
        )
    return f"/{number}" if number else ""


def _cluster(parts: UrlParts) -> tuple[UrlParts, bool]:
    """Return the parts without the option ``cluster``, and its value; raises `SettingError`."""
    given = [value for name, value in parts.options if name == "cluster"]
    if not given:
        return parts, False
    if given not in (["true"], ["false"]):
        raise _wrong("option 'cluster' must be true or false")
    options = tuple(option for option in parts.options if option[0] != "cluster")
    return replace(parts, options=options), given == ["true"]


def _listed(text: str, what: str, default: int) -> tuple[str, int]:
    def refuse(_problem: str) -> SettingError:
        return _wrong(f"{what} is not host:port")  # not shown: it may be half of a password

    host, port = host_and_port(text, refuse=refuse)
    if not host:
        raise refuse("")
    return host, default if port is None else port


def _shown(place: tuple[str, int]) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _wrong(problem: str) -> SettingError:
    return SettingError(f"REDIS_URL: {problem}; {FORMS}")

"""Parses ``DATABASE_URL``, before any library sees it."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote, urlencode

from unstale.errors import SettingError
from unstale.runtime.urls import ENCODE, UrlParts, host_and_port, shown_scheme

FORM: Final = "expected postgresql://user:password@host:port/database"
SCHEMES: Final = ("postgresql", "postgres")
SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TARGETS: Final = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")

_CLIENT: Final = frozenset({
    "host", "port", "dbname", "database", "user", "password", "passfile", "service", "sslmode", "sslcert",
    "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version",
    "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
})  # fmt: skip
"""Options that asyncpg reads itself; it sends every other one to the server as a setting of the session."""
FOREIGN: Final = {
    "pgbouncer": "Prisma", "connection_limit": "Prisma", "pool_timeout": "Prisma", "schema": "Prisma",
    "socket_timeout": "Prisma", "sslaccept": "Prisma", "sslidentity": "Prisma",
    "statement_cache_size": "Prisma", "ssl": "other drivers", "prepared_statement_cache_size": "SQLAlchemy",
    "prepared_statement_name_func": "SQLAlchemy", "async_fallback": "SQLAlchemy",
    "prepared_statements": "Rails", "pool": "Rails", "prepare": "postgres.js",
    "binary_parameters": "lib/pq", "connect_timeout": "libpq", "channel_binding": "libpq",
    "gssencmode": "libpq", "gssdelegation": "libpq", "keepalives": "libpq", "keepalives_idle": "libpq",
    "keepalives_interval": "libpq", "keepalives_count": "libpq", "tcp_user_timeout": "libpq",
    "hostaddr": "libpq", "fallback_application_name": "libpq", "require_auth": "libpq",
    "requirepeer": "libpq", "requiressl": "libpq", "sslcompression": "libpq", "sslsni": "libpq",
    "sslcertmode": "libpq", "sslcrldir": "libpq", "load_balance_hosts": "libpq", "servicefile": "libpq",
    "replication": "libpq",
}  # fmt: skip
"""Options of other clients, and whose they are. Postgres refuses them as settings that it does not know."""


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A parsed URL. It prints no part of itself.

    Attributes:
        dsn: The URL for asyncpg, with every part encoded as asyncpg decodes it.
        database: The database, or None if the URL does not name one.
        has_password: True if the URL contains a password.
        is_socket: True if a host is the folder of a socket, or no host is named.
        parts: The parts of the text.
    """

    dsn: str = field(repr=False)
    database: str | None = field(repr=False)
    has_password: bool
    is_socket: bool
    parts: UrlParts = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "PostgresUrl":
        """Parse a URL; raises `SettingError` that names the wrong part, and never shows one."""
        return _parse(text)

    def option_in(self, message: str) -> str:
        """Return how to name the option that a server's error message is about."""
        for name, _ in self.parts.options:
            if name not in _CLIENT and name.lower() in message.lower():
                return self.parts.option_name(name, known=FOREIGN)
        return "an option"


@lru_cache(maxsize=16)
def _parse(text: str) -> PostgresUrl:
    scheme = text.strip().partition("://")[0].lower()
    if scheme.partition("+")[0] not in SCHEMES:
        raise SettingError(f"DATABASE_URL {shown_scheme(scheme)}; it must begin with postgresql://")
    parts = UrlParts.of(text, refuse=_wrong)
    options = dict(parts.options)
    hosts = [host_and_port(host, refuse=_wrong)[0] for host in parts.hosts.split(",")]
    if "host" in options:
        hosts = [host_and_port(host, refuse=_wrong)[0] for host in options["host"].split(",")]
    if len(hosts) > 1 and not all(hosts):
        raise _wrong(ENCODE)
    for name, value in options.items():
        _check_option(name, value, parts)
    user, colon, password = parts.login.partition(":")
    database = unquote(parts.path.removeprefix("/")) or options.get("dbname") or options.get("database")
    login = quote(unquote(user), safe="") + (f":{quote(unquote(password), safe='')}" if colon else "")
    given = [(name, value) for name, value in options.items() if value]
    dsn = (
        f"postgresql://{login}{'@' if login else ''}{parts.hosts}"
        f"/{quote(unquote(parts.path.removeprefix('/')), safe='')}{'?' if given else ''}{urlencode(given)}"
    )
    return PostgresUrl(
        dsn.replace("/?", "?") if not parts.path.strip("/") else dsn,
        database,
        bool(password) or bool(options.get("password")),
        any(not host or host.startswith("/") for host in hosts),
        parts,
    )


def _check_option(name: str, value: str, parts: UrlParts) -> None:
    if name in FOREIGN:
        raise _wrong(
            f"{parts.option_name(name, known=FOREIGN)} is one of {FOREIGN[name]}, and neither Postgres nor "
            "unstale knows it; remove it from the URL for unstale"
        )
    if name == "sslmode" and value not in SSL_MODES:
        raise _wrong(f"option 'sslmode' must be one of {', '.join(SSL_MODES)}")
    if name == "target_session_attrs" and value not in TARGETS:
        raise _wrong(f"option 'target_session_attrs' must be one of {', '.join(TARGETS)}")
    if name == "port" and not all(port.isascii() and port.isdecimal() for port in value.split(",")):
        raise _wrong("option 'port' must be a number")


def _wrong(problem: str) -> SettingError:
    return SettingError(f"DATABASE_URL: {problem}; {FORM}")

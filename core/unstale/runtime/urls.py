"""Take a server's URL apart; no part of it appears in an error, since any part may be half of a password."""

import re
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_plus

Refuse = Callable[[str], Exception]
"""Makes the error for a problem, with the variable's name and the form that was expected."""

ENCODE: Final = (
    "host or port cannot be read (in a user or password, write / ? # @ : and [ as %2F %3F %23 %40 %3A "
    "and %5B)"
)
SCHEMES: Final = ("http", "https", "redis", "rediss", "unix", "postgres", "postgresql", "mysql", "mariadb",
                  "mongodb", "mssql", "oracle", "sqlite", "amqp", "memcached", "jdbc")  # fmt: skip
"""Schemes that an error may name; any other text before :// may be half of a password."""
_SECRET_OPTIONS: Final = ("password", "sslpassword", "ssl_password", "sentinel_password")
_HOST: Final = re.compile(r"[\w.-]*")
_NAME: Final = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class UrlParts:
    """The parts of a URL as they stand in it, still percent-encoded, except for the options.

    Attributes:
        scheme: In small letters, without ``://``.
        login: User and password, or an empty text.
        hosts: What stands before the path, without the login.
        path: From the first slash, or an empty text.
        options: Names and decoded values of the query.
    """

    scheme: str
    login: str = field(repr=False)
    hosts: str = field(repr=False)
    path: str = field(repr=False)
    options: tuple[tuple[str, str], ...] = field(repr=False)

    @classmethod
    def of(cls, text: str, *, refuse: Refuse) -> "UrlParts":
        """Take ``text`` apart; raises the error that ``refuse`` makes."""
        text = text.strip()
        if text[:1] in "'\"":
            raise refuse("it is empty" if not text else "it is in quotes; remove them")
        if any(letter.isspace() or not letter.isprintable() for letter in text):
            raise refuse("it contains a blank or a line break; in a user or password, write a blank as %20")
        scheme, mark, rest = text.partition("://")
        if not mark:
            raise refuse("it is not a URL")
        if "#" in rest:
            raise refuse(ENCODE)
        end = min((at for sign in "/?" if (at := rest.find(sign)) >= 0), default=len(rest))
        login, _, hosts = rest[:end].rpartition("@")
        path, _, query = rest[end:].partition("?")
        if "@" in path or "@" in query:
            raise refuse(ENCODE)  # this is the rest of a password
        return cls(scheme.lower(), login, hosts, path, _options(query, refuse))

    def option_name(self, name: str, *, known: Container[str] = ()) -> str:
        """Return how an error names an option: by its name, or by its number if that may be secret."""
        names = [each for each, _ in self.options]
        before = names[: names.index(name)]
        if name in known or (_NAME.fullmatch(name) and not any(each in _SECRET_OPTIONS for each in before)):
            return f"option {name!r}"
        return f"option number {names.index(name) + 1}"


def shown_scheme(scheme: str) -> str:
    """Return how an error shows a scheme that is not the right one."""
    return f"begins with {scheme}://" if scheme.lower() in SCHEMES else "is not a URL"


def host_and_port(text: str, *, refuse: Refuse) -> tuple[str, int | None]:
    """Return one host, decoded and without brackets, and its port; raises the error of ``refuse``."""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or not re.fullmatch(r"[0-9A-Fa-f:.]+(%.+)?", host) or (port and port[0] != ":"):
            raise refuse(ENCODE)
        port = port[1:]
    else:
        host, _, port = text.partition(":")
        host = unquote_plus(host.replace("+", "%2B"))
        if not host.startswith("/") and not _HOST.fullmatch(host):
            raise refuse(ENCODE)
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        raise refuse(ENCODE)
    return host, int(port) if port else None


def _options(query: str, refuse: Refuse) -> tuple[tuple[str, str], ...]:
    found = []
    for number, item in enumerate(query.split("&") if query else (), 1):
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise refuse(f"option number {number} is not name=value (write & in a value as %26)")
        found.append((unquote_plus(name), unquote_plus(value)))
    return tuple(found)

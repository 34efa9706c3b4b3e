"""Encryption to Postgres: whoever answers beyond this machine must prove who it is."""

import ipaddress
import os
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from unstale.errors import SettingError

UNENCRYPTED: Final = (
    "Postgres does not encrypt its connections; if the network to it is yours alone, add ?sslmode=disable "
    "to DATABASE_URL"
)


def postgres_tls(dsn: str) -> ssl.SSLContext | None:
    """How to encrypt a connection to ``dsn``; None: as its ``sslmode`` or ``PGSSLMODE`` says, or not at all.

    libpq's default, and asyncpg's, is to take whatever answers. Here a server beyond this machine must show a
    certificate for its name, signed by an authority that ``sslrootcert=`` names or this machine knows, unless
    ``sslmode`` says otherwise. Raises `SettingError` for a certificate file that cannot be read.
    """
    try:
        parts = urlsplit(dsn)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    except ValueError:
        return None  # asyncpg says what is wrong with it
    if "sslmode" in options or os.environ.get("PGSSLMODE"):
        return None
    authority = options.get("sslrootcert")
    hosts = options.get("host") or parts.netloc.rpartition("@")[2]
    if authority is None and all(_is_local(host) for host in hosts.split(",")):
        return None
    try:
        return _context(authority, Path(authority).stat().st_mtime_ns if authority else 0)
    except (OSError, ssl.SSLError) as error:
        raise SettingError(
            f"DATABASE_URL: sslrootcert is {authority!r}, which is no readable file of certificates "
            f"({type(error).__name__}); Supabase's is under Database settings > SSL configuration"
        ) from None


@lru_cache(maxsize=4)
def _context(authority: str | None, _changed: int) -> ssl.SSLContext:
    """Read anew only when the file has changed: reading this machine's authorities takes 10 ms."""
    return ssl.create_default_context(cafile=authority)


def untrusted(error: ssl.SSLCertVerificationError) -> str:
    """What to do about a certificate that was not accepted, as a sentence."""
    return (
        f"Postgres showed a certificate that is not trusted ({error.verify_message}). Supabase signs with an "
        "authority of its own: download it (Database settings > SSL configuration) and add "
        "?sslrootcert=FILE to DATABASE_URL; or add ?sslmode=require to encrypt without checking who answers"
    )


def _is_local(host: str) -> bool:
    name = unquote(host)
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if not name or name == "localhost" or Path(name).is_absolute():
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

"""TLS to Postgres: a server on another machine must present a certificate that can be verified."""

import ipaddress
import os
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from unstale.errors import SettingError

UNENCRYPTED: Final = (
    "Postgres does not encrypt its connections, and DATABASE_URL or the default requires it; if the network "
    "to the server is yours alone, set sslmode=disable in DATABASE_URL"
)


def postgres_tls(dsn: str) -> ssl.SSLContext | None:
    """Return how to encrypt a connection to ``dsn``, or None.

    None means that ``sslmode`` or ``PGSSLMODE`` decides, or that the server is on this machine. By default
    libpq and asyncpg accept any server that answers. Here a server beyond this machine must show a
    certificate for its name, signed by an authority that ``sslrootcert=`` names or this machine trusts.
    Raises `SettingError` for a certificate file that cannot be read.
    """
    try:
        parts = urlsplit(dsn)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    except ValueError:
        return None  # asyncpg reports the error
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
            f"DATABASE_URL: sslrootcert is {authority!r}, which is not a readable file of certificates "
            f"({type(error).__name__}); find Supabase's under Database settings > SSL configuration"
        ) from None


@lru_cache(maxsize=4)
def _context(authority: str | None, _changed: int) -> ssl.SSLContext:
    """Load the authorities; cached until the file changes, as loading this machine's takes 10 ms."""
    return ssl.create_default_context(cafile=authority)


def untrusted(error: ssl.SSLCertVerificationError) -> str:
    """Return the error text for a certificate that could not be verified, with its remedies."""
    return (
        f"Postgres showed a certificate that is not trusted ({error.verify_message}). Supabase signs with "
        "its own authority: download it (Database settings > SSL configuration) and add ?sslrootcert=FILE to "
        "DATABASE_URL; or add ?sslmode=require to encrypt without verifying the server"
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

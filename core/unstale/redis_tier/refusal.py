"""Errors of Redis that the same ``REDIS_URL`` would meet again, in words."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
)

from unstale.errors import RedisRefused
from unstale.redis_tier.asking import NoPrimary
from unstale.redis_tier.url import RedisUrl

NOT_ALLOWED = (
    "the user of REDIS_URL lacks a right ({}). Grant what docs/operations.md lists, or give another user"
)

_REFUSALS: Final = (
    (BusyLoadingError, "is loading its data; it answers once that is done"),
    (
        ReadOnlyError,
        "is a read-only replica; name the primary in REDIS_URL, or the Sentinels, unless a failover is under "
        "way",
    ),
    (MasterDownError, "is a replica without its primary; name the primary in REDIS_URL, or the Sentinels"),
    (
        MovedError,
        "is a node of a cluster, and another node has the keys; if REDIS_URL lacks ?cluster=true, add it",
    ),
    (ClusterDownError, "is a node of a cluster that is down; look at `CLUSTER INFO`"),
    (OutOfMemoryError, "is out of memory; raise maxmemory, or evict with volatile-lru"),
)
"""Errors with which a server answers that ``REDIS_URL`` names, though perhaps for a while only."""


def problem(error: BaseException | None) -> str | None:
    """Return what ``REDIS_URL`` says wrongly, naming its part, or None for a server that is away."""
    for cause in _causes(error):
        text = str(cause)
        if isinstance(cause, NoPermissionError):
            return NOT_ALLOWED.format(text[:200])
        if "without any password configured" in text or "no password is set" in text:
            return "REDIS_URL contains a password, but this Redis has none for its default user; remove it"
        if any(words in text for words in ("NOAUTH", "Authentication required", "already authenticated")):
            return (
                "this Redis requires a password, and REDIS_URL contains none; write "
                "redis://user:password@host"
            )
        if isinstance(cause, AuthenticationError):
            return "Redis refused the user or password of REDIS_URL; correct it"
        if "DB index is out of range" in text or "invalid DB index" in text or text == "Invalid Database":
            return (
                "the database number of REDIS_URL, behind the last slash, does not exist on this Redis; "
                "correct it"
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of Redis is not trusted ({cause.verify_message}). Name its authority with "
                "?ssl_ca_certs=FILE in REDIS_URL, and the host as the certificate does"
            )
    return None


def answered(error: BaseException | None, place: str) -> str | None:
    """Return a sentence about a Redis at ``place`` that answers and refuses; None if it does not answer."""
    wrong = problem(error)
    if wrong is not None:
        begin = f"Redis at {place}"
        return f"{begin}{wrong.removeprefix('Redis')}" if wrong.startswith("Redis ") else f"{begin}: {wrong}"
    for cause in _causes(error):
        for kinds, text in _REFUSALS:
            if isinstance(cause, kinds):
                return f"Redis at {place} {text}"
        if "max number of clients" in str(cause):
            return (
                f"Redis at {place} has no connection left; raise its maxclients, or let fewer processes run"
            )
    return None


def refusal(error: BaseException | None) -> RedisRefused | None:
    """Return the error for what ``REDIS_URL`` says wrongly, or None for a server that is away."""
    if isinstance(error, NoPrimary):
        return None
    text = problem(error)
    return None if text is None else RedisRefused(text[0].upper() + text[1:])


async def tls_mismatch(text: str, *, timeout: float) -> str | None:
    """Return a sentence if the server speaks TLS and ``REDIS_URL`` does not, or the other way round.

    Neither redis-py nor Redis says so: one waits for the other. So each first server of the URL is asked in
    the other way.
    """
    url = RedisUrl.parse(text)
    if "path" in url.options:
        return None
    host, port = (
        (*url.sentinels, *url.nodes)[0]
        if url.sentinels or url.nodes
        else (url.options.get("host", "localhost"), None)
    )
    port = port or int(url.options.get("port", 6379))
    with suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(timeout):
            if not url.tls:
                if await _speaks_tls(host, port):
                    return "The port that REDIS_URL names speaks TLS; write rediss:// instead of redis://"
            elif await _speaks_plainly(host, port):
                return (
                    "The port that REDIS_URL names does not speak TLS; write redis:// instead of rediss://, "
                    "or name the port with TLS"
                )
    return None


async def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:  # it may want a certificate of ours
        return "ALERT" in str(error.reason)
    writer.transport.abort()
    return True


async def _speaks_plainly(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"PING\r\n")
        return (await reader.read(1)) in (b"+", b"-")
    finally:
        writer.transport.abort()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__

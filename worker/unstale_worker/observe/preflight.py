"""Checks that the servers can carry the protocol, at the start of a worker and for ``doctor``."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from unstale.errors import MigrationMissing, UnsupportedServer
from unstale.protocol.names import Names
from unstale_worker.captures.coverage import missing_columns, narrower_filter
from unstale_worker.fanout.failure import ColumnTypes
from unstale_worker.redis.applier import STATE, unavailable
from unstale_worker.redis.tiers import CheckedRedis, Tier
from unstale_worker.rules import Rules
from unstale_worker.sources import WatchVersion

OLDEST_REDIS: Final = (7, 0)
OLDEST_VALKEY: Final = (7, 2)
PASSING: Final = (
    *(ReadOnlyError, BusyLoadingError, MasterDownError, OutOfMemoryError),
    *(AskError, ClusterDownError, TryAgainError),
)
"""Errors that pass: the server was demoted since we connected, loads its data or is full, or a slot moves."""
SUPPORTED: Final = (
    "unstale needs one Redis >= 7 or Valkey >= 7.2 primary (with replicas or Sentinel), or a cluster of them"
)


async def check_redis(redis: Redis, names: Names, *, sentinels: bool = False) -> CheckedRedis:
    """Return what the server is; raises `UnsupportedServer` or `RedisUnavailable`.

    Args:
        redis: A client of the server.
        names: Names of the Redis keys.
        sentinels: The server was found through Sentinels.
    """
    try:
        await redis.ping()  # what the connection itself meets is no word about INFO
        name = await _version(redis, cluster=names.cluster)
        try:
            reply = await STATE(redis, keys=[names.state])
        except (NoPermissionError, *PASSING):
            raise
        except ResponseError as error:
            if "ACL failure in script" in str(error):
                raise NoPermissionError(str(error)) from error
            raise UnsupportedServer(
                f"this server does not run unstale's scripts ({str(error)[:120]}); {SUPPORTED}"
            ) from error
        if not reply[0] and names.cluster:
            raise UnsupportedServer(
                "scripts of this cluster may not call INFO, so it does not tell which server answers; a "
                "cluster without it is not supported. Allow INFO to the user of REDIS_URL if you can"
            )
        if not reply[0]:
            return CheckedRedis(name, Tier.NO_RUN_ID)
        if str((await redis.info("replication")).get("role")) != "master":
            raise UnsupportedServer(
                "REDIS_URL is a replica; give the primary's URL, or the Sentinels' "
                "(redis+sentinel://host:port,host:port/service/db)"
            )
    except RedisError as error:
        raise unavailable(error) from error
    if names.cluster:
        return CheckedRedis(name, Tier.CLUSTER)
    return CheckedRedis(name, Tier.SENTINEL if sentinels else Tier.SINGLE)


async def _version(redis: Redis, *, cluster: bool) -> str:
    """Return name and version; raises `UnsupportedServer`, unless the server does not tell them."""
    try:
        server = await redis.info("server")
    except PASSING:
        raise
    except ResponseError:  # INFO is refused
        return "a server that does not tell its version"
    name, version = server_version(server)
    mode = str(server.get("server_mode") or server.get("redis_mode"))  # Valkey's name, and Redis'
    if mode == "cluster" and not cluster:
        raise UnsupportedServer(
            "REDIS_URL names a node of a Redis Cluster; add ?cluster=true to it, for worker and agents"
        )
    if cluster and mode != "cluster":
        raise UnsupportedServer(
            "REDIS_URL says ?cluster=true, but this server is no node of a cluster; remove that, for worker "
            "and agents"
        )
    if mode == "sentinel":
        raise UnsupportedServer(
            "REDIS_URL names a Sentinel; write redis+sentinel://host:port,host:port/service/db"
        )
    wanted = OLDEST_VALKEY if name == "Valkey" else OLDEST_REDIS
    if version < wanted:
        shown = ".".join(map(str, version))
        raise UnsupportedServer(f"REDIS_URL is {name} {shown}; {SUPPORTED}")
    return f"{name} {'.'.join(map(str, version))}"


def server_version(server: Mapping[str, object]) -> tuple[str, tuple[int, ...]]:
    """Read name and version from ``INFO server``; Valkey keeps ``redis_version`` at 7.2.4 for old clients."""
    own = server.get("valkey_version")
    text = str(own or server.get("redis_version") or "0")
    return ("Valkey" if own else "Redis"), tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def typed(rules: Rules, versions: Iterable[WatchVersion], queries: ColumnTypes) -> Rules:
    """Return the rules with the spelling of their keys, from the types of the database's columns."""
    tables = {
        (version.schema, version.table): dict(zip(version.key_columns, version.key_types, strict=False))
        for version in versions
        if version.current
    }
    return rules.typed(tables, queries)


def check_watches(rules: Rules, versions: Iterable[WatchVersion]) -> None:
    """Raise `MigrationMissing` if the captures do not report what the rules need."""
    current = {(version.schema, version.table): version for version in versions if version.current}
    missing = []
    for (schema, table), needs in rules.tables.items():
        watched = current.get((schema, table))
        if watched is None:
            missing.append(f"{schema}.{table} is not watched")
        elif lacking := missing_columns(needs, watched.key_columns):
            missing.append(f"the capture of {schema}.{table} lacks {', '.join(lacking)}")
        elif narrower := narrower_filter(needs, watched.key_columns, watched.columns):
            missing.append(f"the capture of {schema}.{table} {narrower}")
    if missing:
        problems = "; ".join(missing)
        raise MigrationMissing(
            f"The database lacks what {rules.file} needs: {problems}. "
            "Run `unstale migration` and push the file it writes (`supabase db push`). If nothing changed "
            "since an earlier file, the database has lost what it made: run `unstale migration --all`",
            lacking=problems,
        )

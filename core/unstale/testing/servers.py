"""Real servers for integration tests: Postgres, Valkey and a worker, started once."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

from unstale.errors import MissingExtra
from unstale.runtime.extras import needs

GROUP = "unstale.embedded_servers"


@dataclass(frozen=True, slots=True)
class Servers:
    """URLs of the running servers. They contain passwords and are therefore not part of the repr.

    Attributes:
        database_url: Postgres, as ``postgres``, the project role that owns the tables.
        redis_url: Valkey.
        has_worker: True if a worker follows the database: the project has rules in ``unstale.toml``.
    """

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    has_worker: bool


@contextlib.contextmanager
def started(root: Path) -> Iterator[Servers]:
    """Start the servers in a thread of their own, with the migrations, seed and rules below ``root``.

    Raises `MissingExtra` if the extra ``embedded`` is not installed.
    """
    found = entry_points(group=GROUP)
    if not found:
        raise MissingExtra("the fixture unstale_servers", extra="embedded", package="unstale_worker")
    with needs("embedded", what="the fixture unstale_servers"):
        servers = next(iter(found)).load()
    with servers(root) as (database_url, redis_url, has_worker):
        yield Servers(database_url, redis_url, has_worker)

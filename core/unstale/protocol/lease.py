"""Result of asking Redis for a key's value or lease. Pure: no I/O."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_LSN: Final = re.compile("[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """Fields of the state that decide if a loader may read a replica; read after the lease was acquired.

    Attributes:
        need_lsn: A replica may be read only if it has replayed this WAL position.
        primary: True if the loader must read the primary.
        database: Identity of the database that ``need_lsn`` refers to.
    """

    need_lsn: str | None
    primary: bool
    database: str | None

    @classmethod
    def decode(cls, known: Sequence[bytes | None]) -> "ReplicaLimits":
        """Decode the fields epoch, need_lsn, primary_until and database, as Redis holds them.

        Without an epoch there is no position and ``need_lsn`` means nothing, so the primary must be read.
        """
        epoch, need_lsn, primary_until, database = known
        lsn = need_lsn.decode("ascii", "replace") if need_lsn else None
        readable = lsn is None or _LSN.fullmatch(lsn) is not None
        return cls(
            need_lsn=lsn if readable else None,
            primary=not epoch or bool(primary_until) or not readable,
            database=database.decode("utf-8", "ignore") if database else None,
        )


PRIMARY: Final = ReplicaLimits(None, True, None)
"""Limits of a load that must read the primary, or whose loader takes no `Load`."""


@dataclass(slots=True)
class ValueOrLease:
    """Value or lease of one key, from one round trip to Redis.

    Not frozen, because one is created for each read of Redis, and that costs 1 µs more.

    Attributes:
        found: Content of the key; None if the lease was acquired, or if the content is unknown.
        lease: The lease that was acquired, or None.
        life: Seconds until ``found`` expires, if requested; infinite if it never does. It may be too short,
            but never too long.
        limits: The replica limits, if requested and the lease was acquired.
        holders: An element for each caller that shares the lease; None if it has one holder only.
        exact: False if ``found`` has tags that the reader did not name.
    """

    found: bytes | None
    lease: bytes | None
    life: float | None = None
    limits: ReplicaLimits = PRIMARY
    holders: list[None] | None = None
    exact: bool = True

    def given_up(self) -> bool:
        """Remove a cancelled caller from the holders of the lease; return True if no holder is left."""
        if self.holders:
            self.holders.pop()
        return not self.holders

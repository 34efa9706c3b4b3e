"""Result of asking Redis for a key's value or lease. No I/O."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

_LSN: Final = re.compile("[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """The state's fields that decide whether a loader may read a replica, read after the lease was taken.

    Attributes:
        need_lsn: A replica may be read only once it has replayed this WAL position.
        primary: The loader must read the primary.
        database: ``system_identifier:timeline`` that ``need_lsn`` belongs to.
    """

    need_lsn: str | None
    primary: bool
    database: str | None

    @classmethod
    def decode(cls, known: Sequence[bytes | None]) -> "ReplicaLimits":
        """Read epoch, need_lsn, primary_until and database of the state, as Redis holds them.

        Without an epoch there is no position, so ``need_lsn`` says nothing: the primary must be read.
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
"""For a load that must read the primary, or whose loader does not ask."""


class ValueOrLease(NamedTuple):
    """Value or lease of one key, from one trip to Redis.

    A tuple, as there is one for each read of Redis, and a frozen dataclass costs 1 µs.

    Attributes:
        found: What stands at the key; None when the lease was acquired, or when nothing can be said.
        lease: The marker that now stands there and is ours, else None.
        life: Seconds until what was found expires, if that was asked; None: never, or unknown.
        limits: Read with the lease, if that was asked.
    """

    found: bytes | None
    lease: bytes | None
    life: float | None = None
    limits: ReplicaLimits = PRIMARY

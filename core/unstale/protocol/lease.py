"""What came of the attempt to take the lease of a missing key."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_LSN: Final = re.compile("[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of the attempt to take the lease of a missing key.

    Attributes:
        lease: The marker that now stands at the key when it is ours, else None.
        found: What stands there when it is not ours; None when that is unknown.
        life: Seconds until that expires; None: never, or unknown.
        live: There is an epoch, so there is a position: what is loaded may be stored.
        need_lsn: A replica may be read only once it has replayed this WAL position.
        primary: The loader must read the primary.
        database: ``system_identifier:timeline`` that ``need_lsn`` belongs to.
    """

    lease: bytes | None
    found: bytes | None
    life: float | None
    live: bool
    need_lsn: str | None
    primary: bool
    database: str | None


def claimed(
    lease: bytes | None, found: bytes | None, known: Sequence[bytes | None], *, life: float | None = None
) -> Claim:
    """From ``known``: epoch, need_lsn, primary_until and database of the state, as Redis holds them."""
    epoch, need_lsn, primary_until, database = known
    lsn = need_lsn.decode("ascii", "replace") if need_lsn else None
    readable = lsn is None or _LSN.fullmatch(lsn) is not None
    return Claim(
        lease=lease,
        found=found if lease is None else None,
        life=life,
        live=bool(epoch),
        need_lsn=lsn if readable else None,
        primary=bool(primary_until) or not readable,
        database=database.decode("utf-8", "ignore") if database else None,
    )

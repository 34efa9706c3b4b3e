"""Where the worker gets changes: what a source must do, and what it hands over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from unstale.protocol.messages import Snapshot
from unstale_worker.fanout.failure import FanoutFailure
from unstale_worker.rules import Plan, Rules
from unstale_worker.sources.wakeups import WakeUps


class Entry(NamedTuple):
    """One outbox entry; a tuple, because a page holds thousands.

    Attributes:
        watch: Number of the watch whose capture wrote it.
        version: Version of that watch: which columns the tuples hold.
        keys: Key tuples of the changed rows, one after the other, None for null; None: the whole table.
    """

    watch: int
    version: int
    keys: Sequence[str | None] | None


@dataclass(frozen=True, slots=True)
class WatchVersion:
    """What one version of a watch wrote.

    Attributes:
        schema: The table's schema when it was watched.
        table: Its name then.
        key_columns: The columns of a tuple, in their order.
        current: Whether captures write this version now.
        columns: The filter of the current version: only changes of these (or of a key column) are
            written; None: all changes.
    """

    schema: str
    table: str
    key_columns: tuple[str, ...]
    current: bool = True
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a batch that is larger than one page goes on.

    Attributes:
        snapshot: The fixed snapshot of the batch.
        xid: Transaction of the last entry delivered.
        id: Number of the last entry delivered.
    """

    snapshot: str
    xid: int
    id: int


@dataclass(frozen=True, slots=True)
class Page:
    """One read of the outbox.

    Attributes:
        database: System identifier and timeline; another one means another database.
        snapshot: What was visible to the read, uncut; fixed for all pages of a batch.
        position: The position once this page (and those before it) is applied.
        more: Whether the batch goes on at `cursor`.
        cursor: The last entry delivered; None when there was none.
        lsn: WAL insert position, taken after the entries.
        flushed: WAL position known to be on disk.
        covered: False when the outbox was purged beyond the position that was asked for.
        current_xmax: The first transaction id not yet assigned.
        entries: In order of transaction and number.
        began: The worker's monotonic clock when the read began, in seconds.
    """

    database: str
    snapshot: str
    position: str
    more: bool
    cursor: Cursor | None
    lsn: str
    flushed: str
    covered: bool
    current_xmax: int
    entries: Sequence[Entry]
    began: float

    @property
    def seen(self) -> Snapshot:
        """`snapshot`, parsed."""
        return Snapshot.parse(self.snapshot)


class Source(Protocol):
    """One database: reads its changes, and does there what a leader has to do.

    Raises `DatabaseUnavailable` for what another attempt may heal and `MigrationMissing` for what a push
    heals. Every call may be repeated: whatever answer is lost, asking again is right.

    Attributes:
        kind: ``outbox`` or ``supabase``; what status, log and ``doctor`` call it.
        least_pause: Seconds below which reading again without a hint costs more than it is worth.
    """

    kind: str
    least_pause: float

    async def read(self, after: str | None, cursor: Cursor | None = None) -> Page:
        """Read what is new after the position ``after`` (None: no position), or the next page of a batch."""
        ...

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        """What that version of a watch wrote; None when nobody knows it any more."""
        ...

    async def watch_versions(self) -> Mapping[tuple[int, int], WatchVersion]:
        """Every version of every watch."""
        ...

    async def run_queries(self, rules: Rules, plan: Plan) -> list[FanoutFailure]:
        """Run the queries pending in ``plan`` and move them into its keys and patterns; returns what failed.

        Every query sees at least what the page that the plan is of contains.
        """
        ...

    async def check_queries(self, rules: Rules) -> list[FanoutFailure]:
        """Run every query of the rules for no row; returns what would fail. Changes nothing."""
        ...

    async def purge(self, *, rows: int, retention: float | None, outbox_max_rows: int | None) -> int:
        """One step of the purge, at most ``rows`` entries; returns how many it deleted.

        ``retention`` in seconds and ``outbox_max_rows`` stay in force for captures; None: as told before.
        """
        ...

    async def begin_term(self, consumer: str, fence: int) -> int:
        """A leadership begins: end what older leaders of this consumer still have open; returns how many."""
        ...

    async def end_term(self) -> None:
        """The leadership is over; never raises what a lost connection causes."""
        ...

    def wakeups(self) -> WakeUps:
        """What tells of commits in this database; to be entered once."""
        ...

    def beside(self) -> "Source":
        """Another one for the same database, so that slow work does not stand in the way of reads."""
        ...

    async def close(self) -> None:
        """Give connections back; safe at any moment, also twice. The next call opens them again."""
        ...
